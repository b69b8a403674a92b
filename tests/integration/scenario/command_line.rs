//! What the command line says, beside the one thing that it is asked to show.

use super::came_out::CameOut;
use super::{Scenario, TYPED};
use crate::support::{run_with_input, triseal, write};

impl Scenario {
    pub(super) async fn command_line(&self, out: &mut CameOut) {
        for (name, content) in [
            ("ca.pem", self.secured.authority.pem()),
            ("caller.pem", self.pair.certificate.clone()),
            ("caller.key", self.pair.key.clone()),
        ] {
            write(self.secured.path(name), &content);
        }
        let of = ["--customer", "acme", "--credential", "typed"];
        let encrypt = [&["credential", "encrypt", "--kind", "opaque"], &of[..]].concat();
        let typed = format!("{{\"password\": \"{TYPED}\", \"pasword\": \"{TYPED}\"}}");
        for (arguments, input, code) in [
            (encrypt.clone(), TYPED.as_bytes(), 0),
            ([&encrypt[..], &["--if-revision", "0"]].concat(), TYPED.as_bytes(), 4),
            ([&["credential", "encrypt", "--kind", "password"], &of[..]].concat(), typed.as_bytes(), 2),
            ([&["credential", "get"], &of[..]].concat(), b"", 0),
            (vec!["credential", "list", "--customer", "acme", "--output", "json"], b"", 0),
            ([&["credential", "decrypt", "--view", "access"], &of[..]].concat(), b"", 4),
            (vec!["credential", "import", "-"], typed.as_bytes(), 3),
            (vec!["customer", "get", "acme"], b"", 0),
            ([&["credential", "delete", "--if-revision", "7", "--yes"], &of[..]].concat(), b"", 4),
        ] {
            let output = self.typed(&arguments, input).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
            out.add("the command line", output.stdout);
            out.add_text("the command line", &said);
        }
        // What it is asked to show it shows, and there alone.
        let shown = self.typed(&[&["credential", "decrypt", "--view", "full"], &of[..]].concat(), b"").await;
        assert_eq!(String::from_utf8_lossy(&shown.stdout), TYPED);
        out.add("the command line", shown.stderr);
    }

    async fn typed(&self, arguments: &[&str], input: &[u8]) -> std::process::Output {
        let mut command = triseal(arguments);
        command.env("TRISEAL_ENDPOINT", format!("https://localhost:{}", self.secured.service.address().port()));
        for (name, file) in [("TRISEAL_CA", "ca.pem"), ("TRISEAL_CERT", "caller.pem"), ("TRISEAL_KEY", "caller.key")] {
            command.env(name, self.secured.path(file));
        }
        run_with_input(command, input).await
    }
}
