package com.datasert.triseal;

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
   * by 503, which says that it was not carried out.
   */
  boolean inDoubt() {
    return status == 0 ? !unsent : status < 300 || (status >= 500 && status != 503);
  }

  /** The HTTP status; 0: there was no answer. */
  public int status() {
    return status;
  }

  /** Salesforce's word for it, or empty. */
  public String error() {
    return error;
  }

  String description() {
    return description;
  }

  boolean mayPass() {
    return status == 0 || status == 429 || status == 503;
  }
}
