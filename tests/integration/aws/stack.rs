//! `deploy/README.md` from an empty account to the first credential, as far as the emulators go: the keys' stack is created by its
//! template, and a service runs on what it made, with the settings of the image, TLS, the policy of `deploy/policy` and the audit log.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::PATIENCE;
use crate::support::site::Aws;
use crate::support::{Service, run, run_with_input, triseal};

const TEMPLATE: &str = include_str!("../../../deploy/cloudformation/keys.yaml");
const ROLE: &str = "arn:aws:iam::000000000000:role/administrator";

/// One call of CloudFormation's, whose answer is XML. Unsigned: the emulator looks at the name of the service only.
async fn cloudformation(endpoint: &str, parameters: &[(&str, &str)]) -> String {
    let mut body = "Version=2010-05-15".to_owned();
    for (name, value) in parameters {
        write!(body, "&{name}=").unwrap();
        for octet in value.bytes() {
            write!(body, "%{octet:02X}").unwrap();
        }
    }
    let credential = "test/20261126/eu-central-1/cloudformation/aws4_request";
    let request = Request::post("/")
        .header("host", endpoint)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0"))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let socket = TokioIo::new(TcpStream::connect(endpoint).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http1::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let answer = client.send_request(request).await.unwrap();
    let status = answer.status();
    let text = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(status.is_success(), "{text}");
    text
}

/// What stands between a tag and its end.
fn tagged<'a>(xml: &'a str, tag: &str) -> Vec<&'a str> {
    let (start, end) = (format!("<{tag}>"), format!("</{tag}>"));
    xml.split(&start).skip(1).filter_map(|rest| rest.split_once(&end)).map(|(inside, _)| inside).collect()
}

/// The outputs of the keys' stack, once it is there.
async fn create_stack(endpoint: &str, deployment: &str) -> HashMap<String, String> {
    let parameters = [
        ("Action", "CreateStack"),
        ("StackName", deployment),
        ("TemplateBody", TEMPLATE),
        ("Capabilities.member.1", "CAPABILITY_NAMED_IAM"),
        ("Parameters.member.1.ParameterKey", "Deployment"),
        ("Parameters.member.1.ParameterValue", deployment),
        ("Parameters.member.2.ParameterKey", "Administrators"),
        ("Parameters.member.2.ParameterValue", ROLE),
        ("Parameters.member.3.ParameterKey", "SecurityTeam"),
        ("Parameters.member.3.ParameterValue", ROLE),
    ];
    cloudformation(endpoint, &parameters).await;
    let begun = Instant::now();
    loop {
        let told = cloudformation(endpoint, &[("Action", "DescribeStacks"), ("StackName", deployment)]).await;
        match tagged(&told, "StackStatus")[0] {
            "CREATE_COMPLETE" => {
                let outputs = tagged(&told, "OutputKey").into_iter().zip(tagged(&told, "OutputValue"));
                return outputs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            }
            "CREATE_IN_PROGRESS" => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
            other => panic!("{other}: {told}"),
        }
        assert!(begun.elapsed() < PATIENCE, "the stack is not there");
    }
}

async fn succeeds(command: Command) -> String {
    let output = run(command).await;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn the_service_runs_on_what_the_keys_stack_makes() {
    let site = Aws::without_tables().await;
    let deployment = format!("stack-{:08x}", getrandom::u32().unwrap());
    let outputs = create_stack(&site.endpoints()[0], &deployment).await;

    let folder = tempfile::tempdir().unwrap();
    let below = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (keys, certificates) = (below("environment.json"), below("tls"));
    succeeds(triseal(&["keygen", "environment", &keys])).await;
    let value = std::fs::read_to_string(&keys).unwrap();
    let secret = &outputs["EnvironmentSecretArn"];
    site.secrets.put_secret_value().secret_id(secret).secret_string(value).send().await.unwrap();
    succeeds(triseal(&["keygen", "certificates", &certificates, "--caller", "realsync", "--caller", "security"])).await;

    // As cloudformation/service.yaml sets it, but for where the files are.
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let image = deploy.join("triseald.toml").to_str().unwrap().to_owned();
    let variables = |command: &mut Command| {
        let file = |name| format!("{certificates}/{name}");
        command
            .env("TRISEAL__DEPLOYMENT", &deployment)
            .env("TRISEAL__SERVER__LISTEN", "127.0.0.1:0")
            .env("TRISEAL__TLS__TRUST_DOMAIN", "datasert.com")
            .env("TRISEAL__TLS__CERTIFICATE", file("server.pem"))
            .env("TRISEAL__TLS__PRIVATE_KEY", file("server.key"))
            .env("TRISEAL__TLS__CLIENT_CA", file("ca.pem"))
            .env("TRISEAL__TLS__CLIENT_CRL", file("ca.crl"))
            .env("TRISEAL__POLICY__DIRECTORY", deploy.join("policy"))
            .env("TRISEAL__AUDIT__SINK", "file")
            .env("TRISEAL__AUDIT__FILE", below("audit.jsonl"))
            .env("TRISEAL__AUDIT__KMS_MAC_KEY", &outputs["AuditKeyArn"])
            .env("TRISEAL__FACTORS__SECRETS_MANAGER__SECRET_ID", secret)
            .env("TRISEAL__FACTORS__KMS__WRAP_WITH", &outputs["WrappingKeyArn"])
            .env("TRISEAL__STORE__DYNAMODB__CREDENTIALS_TABLE", format!("triseal-{deployment}-credentials"))
            .env("TRISEAL__STORE__DYNAMODB__CUSTOMERS_TABLE", format!("triseal-{deployment}-customers"))
            .env("TRISEAL__STORE__DYNAMODB__OPERATIONS_TABLE", format!("triseal-{deployment}-operations"))
            .env("TRISEAL__INSECURE__DEVELOPMENT_CODEBASE_KEY", "true");
    };
    let with = |mut command: Command| {
        variables(&mut command);
        command
    };
    succeeds(with(site.triseal(&["tables", "create", "--config", &image]))).await;
    let checked = succeeds(with(site.triseald(&["check", "--config", &image]))).await;
    assert!(checked.contains("ok       audit: kms:GenerateMac") && !checked.contains("FAILED"), "{checked}");
    let service = Service::start(with(site.triseald(&["--config", &image]))).await;

    let call = |caller: &str, arguments: &[&str]| {
        let mut command = triseal(arguments);
        command
            .env("TRISEAL_ENDPOINT", format!("https://{}", service.address()))
            .env("TRISEAL_CA", format!("{certificates}/ca.pem"))
            .env("TRISEAL_CERT", format!("{certificates}/{caller}.pem"))
            .env("TRISEAL_KEY", format!("{certificates}/{caller}.key"));
        command
    };
    let named = ["--customer", "acme", "--credential", "realsync.main"];
    succeeds(call("realsync", &["customer", "create", "acme"])).await;
    let encrypt = [&["credential", "encrypt"], &named[..], &["--from-salesforce", "-"]].concat();
    let answer = br#"{"access_token": "00D!ACCESS", "refresh_token": "5Aep.REFRESH", "instance_url": "https://acme.my.salesforce.com",
        "id": "https://login.salesforce.com/id/00D/005", "issued_at": "1764115200000", "signature": "x", "token_type": "Bearer"}"#;
    let encrypted = run_with_input(call("realsync", &encrypt), answer).await;
    assert!(encrypted.status.success(), "{}", String::from_utf8_lossy(&encrypted.stderr));
    let decrypt = [&["credential", "decrypt"], &named[..]].concat();
    assert!(succeeds(call("realsync", &decrypt)).await.contains("00D!ACCESS"));
    let refused = run(call("security", &decrypt)).await;
    assert_eq!(refused.status.code(), Some(4));

    assert!(service.terminate().await.success());
    let heads = format!("dynamodb:triseal-{deployment}-operations");
    let log = below("audit.jsonl");
    let verify = ["audit", "verify", "--checkpoints", &heads, "--mac-key", &outputs["AuditKeyArn"], &log];
    assert!(succeeds(site.triseal(&verify)).await.contains("nothing was found"));
}
