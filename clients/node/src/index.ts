/**
 * A backend's side of triseal: store a Salesforce connection, call Salesforce with a living token, disconnect.
 *
 * The protocol of refreshing is docs/REFRESH.md's; `Client.callWithToken` keeps its rules, so that no refresh token is
 * used twice. One client is made for a process. Nothing here logs, and nothing here prints a token.
 */
export type { Endpoint } from "./channel.js";
export { Client, type ClientOptions, type StoreOptions } from "./client.js";
export { NeedsReauth, SalesforceError, TrisealError, Unauthorized } from "./errors.js";
export type { Credential__Output as Credential } from "./generated/triseal/v1/Credential.js";
export type { ConnectedApp, TokenAnswer } from "./salesforce.js";
