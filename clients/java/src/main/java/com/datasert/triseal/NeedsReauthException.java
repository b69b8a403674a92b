package com.datasert.triseal;

import io.grpc.Status;

/** The customer has to consent again: no refresh token is good any more. Store the new connection, and calls go on. */
public final class NeedsReauthException extends TrisealException {
  private static final long serialVersionUID = 1;

  NeedsReauthException(Status.Code code, String message) {
    super(code, "NEEDS_REAUTH", message, null);
  }
}
