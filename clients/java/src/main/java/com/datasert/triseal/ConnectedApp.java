package com.datasert.triseal;

/**
 * The app in Salesforce that customers consent to.
 *
 * @param clientId its consumer key
 * @param clientSecret its consumer secret; empty if the app does not require one
 */
public record ConnectedApp(String clientId, String clientSecret) {
  /** Without the secret. */
  @Override
  public String toString() {
    return "ConnectedApp[" + clientId + "]";
  }
}
