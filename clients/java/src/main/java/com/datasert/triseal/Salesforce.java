package com.datasert.triseal;

import com.datasert.triseal.v1.SalesforceOAuth;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import com.google.protobuf.util.Timestamps;
import java.net.ConnectException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpConnectTimeoutException;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** What is said to Salesforce's token endpoint, and how its answers are read. It knows nothing of triseal's protocol. */
final class Salesforce {
  /** Of one call to the token endpoint, its answer included. */
  static final Duration HTTP_TIMEOUT = Duration.ofSeconds(10);

  private final ConnectedApp app;

  Salesforce(ConnectedApp app) {
    this.app = app;
  }

  /** Asks for new tokens, once: each refresh token is good for one use, so nothing here may try again. */
  SalesforceOAuth refresh(SalesforceOAuth connection) {
    JsonObject answer =
        post(connection.getTokenUrl(), Map.of("grant_type", "refresh_token", "refresh_token", connection.getRefreshToken()));
    if (text(answer, "access_token").isEmpty()) {
      throw new SalesforceException(200, "no access_token", "");
    }
    return tokens(answer, "");
  }

  /** Revokes the refresh token, and with it the connection. */
  void revoke(SalesforceOAuth connection) {
    try {
      post(connection.getTokenUrl().replaceFirst("/token$", "/revoke"), Map.of("token", connection.getRefreshToken()));
    } catch (SalesforceException error) {
      // 400: it is dead already.
      if (error.status() != 400) {
        throw error;
      }
    }
  }

  private JsonObject post(String url, Map<String, String> fields) {
    Map<String, String> form = new LinkedHashMap<>(fields);
    form.put("client_id", app.clientId());
    if (!app.clientSecret().isEmpty()) {
      form.put("client_secret", app.clientSecret());
    }
    String body = form.entrySet().stream().map(field -> field.getKey() + "=" + encoded(field.getValue())).collect(Collectors.joining("&"));
    // A token goes where it was to go, and nowhere else. This client sends no POST twice. Each call has a connection of its own: one that
    // was idle may be dead, and whether a request on it was read could not be told. The pool is one that nobody shuts down meanwhile.
    HttpClient http =
        HttpClient.newBuilder()
            .executor(ForkJoinPool.commonPool())
            // Sooner than the whole: then it is known that nothing was sent.
            .connectTimeout(HTTP_TIMEOUT.dividedBy(2))
            .followRedirects(HttpClient.Redirect.NEVER)
            .build();
    HttpResponse<String> response;
    try {
      HttpRequest request =
          HttpRequest.newBuilder(URI.create(url))
              .header("content-type", "application/x-www-form-urlencoded")
              .POST(HttpRequest.BodyPublishers.ofString(body))
              .build();
      // The request's own time-out ends with the head of the answer.
      response = http.sendAsync(request, HttpResponse.BodyHandlers.ofString()).orTimeout(HTTP_TIMEOUT.toSeconds(), TimeUnit.SECONDS).join();
    } catch (CompletionException error) {
      // Without a connection nothing was sent.
      throw new SalesforceException(error.getCause() instanceof ConnectException || error.getCause() instanceof HttpConnectTimeoutException);
    } catch (IllegalArgumentException noUrl) {
      throw new SalesforceException(true);
    }
    JsonObject said = parsed(response.body());
    if (response.statusCode() != 200) {
      throw new SalesforceException(response.statusCode(), text(said, "error"), text(said, "error_description"));
    }
    return said;
  }

  private static String encoded(String text) {
    return URLEncoder.encode(text, StandardCharsets.UTF_8);
  }

  /** What is no object says nothing. */
  static JsonObject parsed(String json) {
    try {
      JsonElement found = JsonParser.parseString(json);
      return found.isJsonObject() ? found.getAsJsonObject() : new JsonObject();
    } catch (JsonParseException malformed) {
      return new JsonObject();
    }
  }

  static String text(JsonObject object, String name) {
    JsonElement found = object.get(name);
    return found != null && found.isJsonPrimitive() ? found.getAsString() : "";
  }

  /**
   * An answer, as it is to be stored. What it does not say stays empty. Nothing but its access token is required: tokens must not be lost
   * because something beside them is odd.
   */
  static SalesforceOAuth tokens(JsonObject answer, String tokenUrl) {
    SalesforceOAuth.Builder found =
        SalesforceOAuth.newBuilder()
            .setAccessToken(text(answer, "access_token"))
            .setRefreshToken(text(answer, "refresh_token"))
            .setInstanceUrl(text(answer, "instance_url"))
            .setTokenUrl(tokenUrl)
            .setIdentityUrl(text(answer, "id"))
            .addAllScopes(Stream.of(text(answer, "scope").split(" ")).filter(scope -> !scope.isEmpty()).toList());
    String issued = text(answer, "issued_at");
    // Until the year 5138: a Timestamp ends with 9999.
    if (issued.matches("\\d{1,14}")) {
      found.setIssueTime(Timestamps.fromMillis(Long.parseLong(issued)));
    }
    return found.build();
  }

  /** {@code https://HOST/id/…} → {@code https://HOST/services/oauth2/token}: production and sandboxes differ in the host. */
  static String tokenUrlOf(JsonObject answer) {
    String identity = text(answer, "id");
    if (identity.isEmpty()) {
      throw new IllegalArgumentException("Salesforce's answer has no id: say its token URL");
    }
    return URI.create(identity).resolve("/services/oauth2/token").toString();
  }
}
