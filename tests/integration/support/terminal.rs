//! A terminal, at which somebody types what a program asks for. python3 makes it: the standard library has none.

use tokio::process::Command;

use super::{program, run};

/// Types its first argument as soon as the program that the others name asks for something, and prints all that stood on the terminal.
const TERMINAL: &str = r#"
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
shown, asked = b"", False
while True:
    try:
        octets = os.read(terminal, 4096)
    except OSError:
        break
    if not octets:
        break
    shown += octets
    if not asked and b" to go on: " in shown:
        os.write(terminal, sys.argv[1].encode() + b"\n")
        asked = True
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

/// Runs a program to its end on a terminal of its own: its exit code, and what stood there.
pub(crate) async fn on_terminal(command: &Command, typed: &str) -> (Option<i32>, String) {
    let command = command.as_std();
    let mut terminal = program("python3", &["-c", TERMINAL, typed]);
    terminal.arg(command.get_program()).args(command.get_args());
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = run(terminal).await;
    let shown = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(shown).expect("UTF-8"))
}
