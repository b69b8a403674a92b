package com.datasert.triseal;

/** For the caller's own function to throw when Salesforce answers 401: its access token is dead. */
public final class UnauthorizedException extends RuntimeException {
  private static final long serialVersionUID = 1;

  public UnauthorizedException() {
    super("Salesforce refuses the access token");
  }
}
