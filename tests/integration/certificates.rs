//! `triseal keygen certificates`, and the command line over TLS with what it makes, as docs/TLS.md has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use crate::support::policy::everything_permitted;
use crate::support::{Service, dev, run, triseal, until};

/// A service with certificates that `keygen` made, for two callers.
struct Tried {
    service: Service,
    folder: TempDir,
}

impl Tried {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = folder.path().join("certificates");
        let callers = ["--caller", "realtask", "--caller", "security"];
        assert_eq!(keygen(&certificates, &callers).await, (0, String::new()));
        let mut command = dev(&folder.path().join("data"));
        for (setting, file) in [
            ("TRISEAL__TLS__CERTIFICATE", "server.pem"),
            ("TRISEAL__TLS__PRIVATE_KEY", "server.key"),
            ("TRISEAL__TLS__CLIENT_CA", "ca.pem"),
            ("TRISEAL__TLS__CLIENT_CRL", "ca.crl"),
        ] {
            command.env(setting, certificates.join(file));
        }
        command.env("TRISEAL__TLS__TRUST_DOMAIN", "datasert.com").env("TRISEAL__INSECURE__PLAINTEXT", "false");
        command.env("TRISEAL__POLICY__DIRECTORY", everything_permitted(folder.path()));
        Self { service: Service::start(command).await, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("certificates").join(name)
    }

    /// `triseal customer list` as a caller, whatever `change` makes of it. Exit code and standard error.
    async fn list(&self, caller: &str, change: impl FnOnce(&mut Command)) -> (i32, String) {
        let mut command = triseal(&["customer", "list"]);
        command
            .env("TRISEAL_ENDPOINT", format!("https://{}", self.service.address()))
            .env("TRISEAL_CA", self.path("ca.pem"))
            .env("TRISEAL_CERT", self.path(&format!("{caller}.pem")))
            .env("TRISEAL_KEY", self.path(&format!("{caller}.key")));
        change(&mut command);
        told(command).await
    }
}

async fn told(command: Command) -> (i32, String) {
    let output = run(command).await;
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

async fn keygen(directory: &Path, more: &[&str]) -> (i32, String) {
    told(triseal(&[&["keygen", "certificates", directory.to_str().unwrap()], more].concat())).await
}

#[tokio::test]
async fn what_is_made_is_taken_by_both_sides_until_it_is_revoked() {
    let tried = Tried::start().await;
    for caller in ["realtask", "security"] {
        assert_eq!(tried.list(caller, |_| {}).await, (0, String::new()));
    }
    let directory = tried.folder.path().join("certificates");
    assert_eq!(keygen(&directory, &["--revoke", "realtask"]).await, (0, String::new()));
    until("refused", async || tried.list("realtask", |_| {}).await.0 != 0).await;
    let (code, told) = tried.list("realtask", |_| {}).await;
    assert!(code == 4 && told.contains("it has been revoked") && told.contains("hint: "), "{told}");
    assert_eq!(tried.list("security", |_| {}).await, (0, String::new()));

    // A new pair for the same caller; the old one stays revoked when another is.
    for name in ["realtask.pem", "realtask.key"] {
        fs::rename(tried.path(name), tried.path(&format!("old-{name}"))).unwrap();
    }
    assert_eq!(keygen(&directory, &["--caller", "realtask"]).await, (0, String::new()));
    assert_eq!(tried.list("realtask", |_| {}).await, (0, String::new()));
    assert_eq!(keygen(&directory, &["--revoke", "security"]).await, (0, String::new()));
    until("refused", async || tried.list("security", |_| {}).await.0 != 0).await;
    let old = |command: &mut Command| {
        command.env("TRISEAL_CERT", tried.path("old-realtask.pem")).env("TRISEAL_KEY", tried.path("old-realtask.key"));
    };
    assert!(tried.list("realtask", old).await.1.contains("it has been revoked"));
    assert_eq!(tried.list("realtask", |_| {}).await, (0, String::new()));
}

#[tokio::test]
async fn what_is_wrong_is_told_by_option() {
    let tried = Tried::start().await;
    let another = tried.folder.path().join("another");
    assert_eq!(keygen(&another, &["--caller", "stranger", "--caller", "realtask"]).await.0, 0);
    let open = tried.path("open.key");
    fs::copy(tried.path("realtask.key"), &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let address = tried.service.address();
    type Case<'a> = (&'a str, PathBuf, i32, &'a str);
    let cases: [Case<'_>; 9] = [
        ("TRISEAL_CA", another.join("ca.pem"), 1, "it is not from the CA in --ca"),
        ("TRISEAL_CA", tried.path("nothing.pem"), 2, "nothing.pem is not there"),
        ("TRISEAL_CERT", tried.path("security.pem"), 2, "--key is not the key of the first certificate in --cert"),
        ("TRISEAL_CERT", tried.path("realtask.key"), 2, "holds a private key where only certificates belong"),
        ("TRISEAL_KEY", tried.path("realtask.pem"), 2, "holds no private key"),
        ("TRISEAL_KEY", open, 2, "is open to others (mode 0644)"),
        ("TRISEAL_ENDPOINT", format!("https://127.0.0.2:{}", address.port()).into(), 1, "nothing listens"),
        ("TRISEAL_ENDPOINT", format!("http://{address}").into(), 1, "one with TLS is https://"),
        ("TRISEAL_ENDPOINT", format!("https://{}", address.ip()).into(), 2, "https://HOST:PORT"),
    ];
    for (variable, value, code, part) in cases {
        let told = tried
            .list("realtask", |command| {
                command.env(variable, value);
            })
            .await;
        assert!(told.0 == code && told.1.contains(part), "{part}: {told:?}");
    }
    let missing = tried
        .list("realtask", |command| {
            command.env_remove("TRISEAL_KEY");
        })
        .await;
    assert!(missing.0 == 2 && missing.1.contains("https needs --key too"), "{missing:?}");
    let stranger = |command: &mut Command| {
        command.env("TRISEAL_CERT", another.join("stranger.pem")).env("TRISEAL_KEY", another.join("stranger.key"));
    };
    let (code, told) = tried.list("stranger", stranger).await;
    assert!(code == 4 && told.contains("the service refuses the certificate in --cert"), "{told}");
    // The service's own certificate is for servers.
    let (code, told) = tried.list("server", |_| {}).await;
    assert!(code == 4 && told.contains("it is not for clients"), "{told}");
}

#[tokio::test]
async fn a_caller_without_a_name_is_told_what_its_certificate_lacks() {
    let tried = Tried::start().await;
    let directory = tried.folder.path().join("certificates");
    assert_eq!(keygen(&directory, &["--caller", "guest", "--trust-domain", "example.org"]).await.0, 0);
    let (code, told) = tried.list("guest", |_| {}).await;
    assert!(code == 4 && told.contains("exactly one SPIFFE id of the service's trust domain"), "{told}");
}

#[tokio::test]
async fn nothing_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("certificates");
    assert_eq!(keygen(&directory, &[]).await.0, 0);
    let read = || {
        let files = fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    };
    let before = read();
    let names: Vec<_> = before.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["ca.crl", "ca.key", "ca.pem", "realtask.key", "realtask.pem", "server.key", "server.pem"]);
    for (path, _) in &before {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(keygen(&directory, &[]).await.0, 0);
    assert!(read() == before);

    fs::remove_file(directory.join("server.pem")).unwrap();
    let (code, told) = keygen(&directory, &["--caller", "other"]).await;
    assert!(code == 4 && told.contains("server.pem and server.key"), "{told}");
    let refused = ["--caller", "ca"];
    assert_eq!(keygen(&directory, &refused).await.0, 2);
    for refused in ["a/b", "", "..", "server"] {
        assert_eq!(keygen(&directory, &["--caller", refused]).await.0, 2, "{refused}");
    }
    assert_eq!(keygen(&directory, &["--trust-domain", "Datasert.com"]).await.0, 2);
    assert_eq!(keygen(&directory, &["--revoke", "nobody"]).await.0, 1);
}
