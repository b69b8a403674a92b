package com.datasert.triseal;

import java.util.Locale;
import java.util.stream.Stream;

/** Salesforce's token endpoint did not do what it was asked. */
public final class SalesforceException extends RuntimeException {
  private static final long serialVersionUID = 1;

  private final int status;
  private final String error;
  private final String description;
  private final boolean unsent;

  /** Without an answer. */
  SalesforceException(boolean unsent) {
    super("Salesforce did not answer");
    this.status = 0;
    this.error = "";
    this.description = "";
    this.unsent = unsent;
  }

  SalesforceException(int status, String error, String description) {
    super(("Salesforce answered " + status + " " + error).strip());
    this.status = status;
    this.error = error;
    this.description = description;
    this.unsent = false;
  }

  /**
   * Whether Salesforce may have taken the refresh token, or may take it yet. Not if the request was never sent, or was refused, or answered
   * by 503, which says that it was not carried out. Where another request with the same token is being processed, that one may take it.
   */
  boolean inDoubt() {
    if (status == 0) {
      return !unsent;
    }
    return status < 300 || (status >= 500 && status != 503) || says("being processed");
  }

  /**
   * Whether the refresh token is not good any more, and the customer has to consent again. What Salesforce says by {@code invalid_grant} of
   * addresses, hours, users and whole orgs passes, and the token is as good as before.
   */
  boolean tokenIsDead() {
    boolean passes = says("ip restricted", "login hours", "inactive user", "inactive org", "being processed");
    return status == 400 && error.equals("invalid_grant") && !passes;
  }

  private boolean says(String... words) {
    return Stream.of(words).anyMatch(description.toLowerCase(Locale.ROOT)::contains);
  }

  /** The HTTP status; 0: there was no answer. */
  public int status() {
    return status;
  }

  /** Salesforce's word for it, or empty. */
  public String error() {
    return error;
  }

  /** What Salesforce says besides, or empty. */
  public String description() {
    return description;
  }

  boolean mayPass() {
    return status == 0 || status == 429 || status == 503;
  }
}
