/**
 * A backend's side of triseal: store a Salesforce connection, call Salesforce with a living token, disconnect.
 *
 * <p>The protocol of refreshing is docs/REFRESH.md's; {@link com.datasert.triseal.TrisealClient#callWithToken} keeps its rules, so that no
 * refresh token is used twice. Nothing here logs, and nothing here prints a token.
 */
package com.datasert.triseal;
