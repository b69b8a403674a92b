//! The Salesforce of `tests/support/salesforce.py`, as a process of its own, and what a product says to it. The fake is there once, for the
//! clients of all languages.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use triseal::grpc::v1;

use super::{PATIENCE, program};

/// A product's time-out for a call to Salesforce.
pub(crate) const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// A Salesforce, which ends when this is dropped.
pub(crate) struct Salesforce {
    _child: Child,
    pub(crate) client: SalesforceClient,
}

/// What a product knows of it.
#[derive(Clone)]
pub(crate) struct SalesforceClient {
    address: String,
}

/// How a refresh went.
#[derive(Debug)]
pub(crate) enum Refresh {
    Tokens(v1::SalesforceOAuth),
    InvalidGrant(String),
    /// It was not done: Salesforce says so, or was not asked.
    NotDone,
    /// Nobody knows.
    NoAnswer,
}

impl Salesforce {
    /// One whose access tokens live for so long.
    pub(crate) async fn start(access_token_life: Duration) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/salesforce.py");
        let life = access_token_life.as_secs_f64().to_string();
        let mut command = program("python3", &[script.to_str().unwrap(), "--access-token-life", &life]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 is there");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let said = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it starts").unwrap().unwrap();
        let address = said.strip_prefix("listening on http://").expect("its address").to_owned();
        Self { _child: child, client: SalesforceClient { address } }
    }

    /// A customer consents: its tokens, as the token endpoint answers them.
    pub(crate) async fn consent(&self, connection: &str) -> v1::SalesforceOAuth {
        let (status, body) = self.client.admin("/admin/connections", &json!({ "id": connection })).await;
        assert_eq!(status, 200);
        tokens(&body)
    }

    /// The access tokens of a connection die.
    pub(crate) async fn expire(&self, connection: &str) {
        assert_eq!(self.client.admin("/admin/expire", &json!({ "id": connection })).await.0, 200);
    }

    /// What becomes of the next refreshes of a connection.
    pub(crate) async fn faults(&self, connection: &str, faults: Value) {
        let asked = json!({ "connection": connection, "faults": faults });
        assert_eq!(self.client.admin("/admin/faults", &asked).await.0, 200);
    }

    /// What it has seen of a connection.
    pub(crate) async fn seen(&self, connection: &str) -> Value {
        self.report().await["connections"][connection].clone()
    }

    /// What it has seen of all.
    pub(crate) async fn report(&self) -> Value {
        self.client.http("GET", "/admin/report", "", "").await.unwrap().1
    }
}

impl SalesforceClient {
    /// Whether the API takes this access token.
    pub(crate) async fn call(&self, access_token: &str) -> bool {
        let bearer = format!("authorization: Bearer {access_token}\r\n");
        let (status, _) = self.http("GET", "/services/data/v62.0/limits", &bearer, "").await.expect("the API answers");
        assert!(status == 200 || status == 401, "{status}");
        status == 200
    }

    /// Asks for new tokens.
    pub(crate) async fn refresh(&self, refresh_token: &str) -> Refresh {
        let app = "client_id=test&client_secret=app-secret";
        let form = format!("grant_type=refresh_token&{app}&refresh_token={refresh_token}");
        match self.http("POST", "/services/oauth2/token", "", &form).await {
            Some((200, body)) => Refresh::Tokens(tokens(&body)),
            Some((400, body)) if body["error"] == "invalid_grant" => {
                Refresh::InvalidGrant(body["error_description"].as_str().unwrap().to_owned())
            }
            Some((503, _)) => Refresh::NotDone,
            Some((status, body)) => panic!("{status}: {body}"),
            None => Refresh::NoAnswer,
        }
    }

    /// Revokes the connection of a token.
    pub(crate) async fn revoke(&self, token: &str) {
        let answer = self.http("POST", "/services/oauth2/revoke", "", &format!("token={token}")).await;
        assert_eq!(answer.map(|(status, _)| status), Some(200));
    }

    async fn admin(&self, path: &str, body: &Value) -> (u16, Value) {
        self.http("POST", path, "", &body.to_string()).await.expect("it answers")
    }

    /// Status and body of an answer, if there is one.
    async fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> Option<(u16, Value)> {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.address).await.ok()?;
            let head = format!("{method} {path} HTTP/1.1\r\nhost: salesforce\r\nconnection: close\r\n{headers}");
            let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            Some((head.get(9..12)?.parse().ok()?, serde_json::from_str(body).ok()?))
        };
        tokio::time::timeout(HTTP_TIMEOUT, exchange).await.ok().flatten()
    }
}

/// An answer of the token endpoint, as it is to be stored.
fn tokens(answer: &Value) -> v1::SalesforceOAuth {
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    v1::SalesforceOAuth {
        access_token: text("access_token"),
        refresh_token: text("refresh_token"),
        instance_url: text("instance_url"),
        token_url: text("instance_url") + "/services/oauth2/token",
        identity_url: text("id"),
        scopes: text("scope").split(' ').map(str::to_owned).collect(),
        issue_time: None,
        access_token_expire_time: None,
    }
}
