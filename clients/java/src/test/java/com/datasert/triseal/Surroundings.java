package com.datasert.triseal;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.concurrent.ThreadLocalRandom;
import java.util.stream.Collectors;

/** What the tests and the worker of clients/test share: clients by the environment that it gives, and what is asked of its Salesforce. */
final class Surroundings {
  static final String CUSTOMER = "demo";
  private static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

  private Surroundings() {}

  static String variable(String name) {
    String value = System.getenv(name);
    if (value == null) {
      throw new IllegalStateException(name + " is not set: run clients/test");
    }
    return value;
  }

  static Path file(String name) {
    return Path.of(variable("TRISEAL_CERTIFICATES"), name);
  }

  /** As a product makes one. */
  static TrisealClient client(String caller) {
    return client(endpoint(), file(caller + ".pem"), file(caller + ".key"));
  }

  static String endpoint() {
    String[] replicas = variable("TRISEAL_ENDPOINT").split(" ");
    return replicas[ThreadLocalRandom.current().nextInt(replicas.length)];
  }

  /** By the line that can be muted. */
  static TrisealClient far() {
    return client(variable("TRISEAL_LINE"), file("realsync.pem"), file("realsync.key"));
  }

  static TrisealClient client(String endpoint, Path certificate, Path key) {
    return client(endpoint, new ConnectedApp("test", "app-secret"), certificate, key);
  }

  static TrisealClient client(String endpoint, ConnectedApp app, Path certificate, Path key) {
    try {
      return new TrisealClient(endpoint, app, file("ca.pem"), certificate, key);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  /** A call to Salesforce's API, as a product makes it. */
  static String limits(String accessToken, String instanceUrl) {
    URI url = URI.create(instanceUrl + "/services/data/v62.0/limits");
    HttpResponse<String> answer = send(HttpRequest.newBuilder(url).header("authorization", "Bearer " + accessToken).build());
    if (answer.statusCode() == 401) {
      throw new UnauthorizedException();
    }
    return JsonParser.parseString(answer.body()).getAsJsonObject().get("connection").getAsString();
  }

  static String consent(String connection) {
    return post(variable("SALESFORCE_URL") + "/admin/connections", id(connection));
  }

  static void expire(String connection) {
    post(variable("SALESFORCE_URL") + "/admin/expire", id(connection));
  }

  static void faults(String connection, String... kinds) {
    String faults =
        Arrays.stream(kinds)
            .map(kind -> "{\"kind\": \"" + kind + "\", \"seconds\": " + (kind.endsWith("slow") ? 1.5 : kind.equals("stalled") ? 15 : 0) + "}")
            .collect(Collectors.joining(", "));
    post(variable("SALESFORCE_URL") + "/admin/faults", "{\"connection\": \"" + connection + "\", \"faults\": [" + faults + "]}");
  }

  static JsonObject seen(String connection) {
    URI url = URI.create(variable("SALESFORCE_URL") + "/admin/report");
    JsonObject report = JsonParser.parseString(send(HttpRequest.newBuilder(url).build()).body()).getAsJsonObject();
    return report.getAsJsonObject("connections").getAsJsonObject(connection);
  }

  static void killAndRestart() {
    post(variable("CONTROL_URL") + "/kill", "{}");
  }

  static void drainAndRestart() {
    post(variable("CONTROL_URL") + "/drain", "{}");
  }

  /** What comes by TRISEAL_LINE is done from now on, and not answered. */
  static void mute() {
    post(variable("CONTROL_URL") + "/mute", "{}");
  }

  static void unmute() {
    post(variable("CONTROL_URL") + "/unmute", "{}");
  }

  static void killAReplica() {
    post(variable("CONTROL_URL") + "/kill-a-replica", "{}");
  }

  private static String id(String connection) {
    return "{\"id\": \"" + connection + "\"}";
  }

  private static String post(String url, String body) {
    HttpResponse<String> answer = send(HttpRequest.newBuilder(URI.create(url)).POST(HttpRequest.BodyPublishers.ofString(body)).build());
    if (answer.statusCode() != 200) {
      throw new IllegalStateException(url + ": " + answer.statusCode());
    }
    return answer.body();
  }

  private static HttpResponse<String> send(HttpRequest request) {
    return HTTP.sendAsync(request, HttpResponse.BodyHandlers.ofString()).join();
  }
}
