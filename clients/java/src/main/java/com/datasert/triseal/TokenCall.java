package com.datasert.triseal;

/**
 * A call to Salesforce's API.
 *
 * @param <T> what it brings
 * @param <E> what it throws besides
 */
@FunctionalInterface
public interface TokenCall<T, E extends Exception> {
  /** Throws {@link UnauthorizedException} when Salesforce answers 401. */
  T call(String accessToken, String instanceUrl) throws E;
}
