package com.datasert.triseal;

/** Salesforce's token endpoint did not do what it was asked. */
public final class SalesforceException extends RuntimeException {
  private static final long serialVersionUID = 1;

  private final int status;
  private final String error;
  private final String description;
  private final boolean late;

  /** Without an answer. Late: the request was sent, and Salesforce may carry it out yet. */
  SalesforceException(boolean late) {
    super("Salesforce did not answer");
    this.status = 0;
    this.error = "";
    this.description = "";
    this.late = late;
  }

  SalesforceException(int status, String error, String description) {
    super(("Salesforce answered " + status + " " + error).strip());
    this.status = status;
    this.error = error;
    this.description = description;
    this.late = false;
  }

  boolean late() {
    return late;
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
    return status == 0 || status == 429 || status >= 500;
  }
}
