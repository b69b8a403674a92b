//! The environment keys of a site, as an operator changes them: by the command line. And the documents that keys are kept in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep};
use triseal::factors::document::{Form, KeyDocument};

use super::site::Site;
use super::{Service, triseal};

/// Some commands wait, for what replicas report and for jobs: a minute or two.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a program ended with, said and told.
pub(crate) fn text(output: &Output) -> (Option<i32>, String, String) {
    let utf8 = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    (output.status.code(), utf8(&output.stdout), utf8(&output.stderr))
}

pub(crate) fn parse(form: Form, text: &str) -> KeyDocument {
    KeyDocument::parse(form, text).unwrap()
}

/// As if the versions that are no longer the primary had not been for an hour.
pub(crate) fn backdate(document: &mut KeyDocument) {
    for entry in &mut document.keys {
        entry.primary_until =
            entry.primary_until.map(|time| time.checked_sub(jiff::SignedDuration::from_hours(1)).unwrap());
    }
}

/// Writes a key file as `triseal` does: whole, and readable for nobody else.
pub(crate) fn write_key_file(path: &Path, document: &KeyDocument, form: Form) {
    let new = path.with_extension("test");
    fs::write(&new, document.to_json(form).as_str()).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

/// Where a site keeps its environment keys, for whoever changes them.
pub(crate) struct EnvironmentKeys<'a> {
    site: &'a Site,
    /// How the commands are told where that is.
    pub(crate) option: [String; 2],
}

impl<'a> EnvironmentKeys<'a> {
    pub(crate) fn of(site: &'a Site) -> Self {
        let option = match site {
            Site::Embedded(folder) => {
                let file = folder.path().join("data/environment.json");
                ["--file".to_owned(), file.to_str().unwrap().to_owned()]
            }
            Site::Aws(aws) => ["--secret".to_owned(), aws.secret.clone()],
        };
        Self { site, option }
    }

    pub(crate) async fn text(&self) -> String {
        match self.site {
            Site::Embedded(_) => fs::read_to_string(&self.option[1]).unwrap(),
            Site::Aws(aws) => {
                let value = aws.secrets.get_secret_value().secret_id(&aws.secret).send().await.unwrap();
                value.secret_string.unwrap()
            }
        }
    }

    pub(crate) async fn document(&self) -> KeyDocument {
        parse(Form::Environment, &self.text().await)
    }

    /// As if the versions that are no longer the primary had not been for an hour.
    pub(crate) async fn backdate(&self) {
        let mut document = self.document().await;
        backdate(&mut document);
        match self.site {
            Site::Embedded(_) => write_key_file(Path::new(&self.option[1]), &document, Form::Environment),
            Site::Aws(aws) => aws.put_secret(&document.to_json(Form::Environment)).await,
        }
    }

    /// `triseal` with these arguments and the option that names the keys.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.site {
            Site::Embedded(_) => triseal(arguments),
            Site::Aws(aws) => aws.triseal(arguments),
        };
        command.args(&self.option);
        command
    }

    /// The same against a service, to its end.
    pub(crate) async fn triseal(&self, arguments: &[&str], service: &Service) -> (Option<i32>, String, String) {
        let mut command = self.command(arguments);
        command.env("TRISEAL_ENDPOINT", service.endpoint());
        text(&tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts"))
    }
}

/// Repeats a command that retires a version while it is refused for what replicas have reported.
pub(crate) async fn repeated(retire: impl AsyncFn() -> (Option<i32>, String, String)) {
    let began = Instant::now();
    loop {
        let (code, out, told) = retire().await;
        if code == Some(0) {
            return;
        }
        let may_pass = code == Some(4) && told.contains("replica ") && began.elapsed() < PATIENCE;
        assert!(may_pass, "{out}{told}");
        sleep(Duration::from_secs(3)).await;
    }
}
