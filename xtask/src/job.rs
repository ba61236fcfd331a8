//! A command for the machine that has KVM, and what it finds there.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::command::quoted;
use crate::failure::{Failure, Result};

/// One script, run as root where KVM is.
pub struct Job {
    /// A bash script, begun with `surroundings`.
    pub script: String,
    /// Files it wants, each with its name in the payload directory.
    pub files: Vec<(PathBuf, String)>,
    /// The terminal belongs to the script.
    pub interactive: bool,
    /// How long it may say nothing, and how long it may take.
    pub silence: Duration,
    pub limit: Duration,
}

/// What a script begins with: where it finds the payload (and the monitor in it), the guest's images, and room.
pub fn surroundings(payload: &Path, images: &Path, scratch: &Path) -> String {
    let [payload, images, scratch] = [payload, images, scratch].map(|path| quoted(&path.to_string_lossy()));
    format!(
        "export AMBIT_PAYLOAD={payload} AMBIT_BIN={payload}/ambit AMBIT_IMAGES={images} AMBIT_SCRATCH={scratch}\n\
         export PATH={payload}:$PATH TMPDIR={scratch}\ncd {scratch}\n"
    )
}

/// Passes the output of a child on as it comes, until its end or a limit of the job. Its standard output is a pipe.
pub fn follow(child: &mut Child, job: &Job) -> Result<()> {
    let begun = Instant::now();
    let heard = Arc::new(Mutex::new(begun));
    let mut output = child.stdout.take().expect("the output was asked for");
    let reader = {
        let heard = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                *heard.lock().unwrap() = Instant::now();
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(&bytes[..count]).and_then(|()| out.flush());
            }
        })
    };
    let ended = loop {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            break Ok(());
        }
        let quiet = heard.lock().unwrap().elapsed();
        let excess = if quiet > job.silence {
            format!("said nothing for {} s", quiet.as_secs())
        } else if begun.elapsed() > job.limit {
            format!("was not done after {} s", job.limit.as_secs())
        } else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let _ = child.kill();
        let _ = child.wait();
        break Err(Failure::new(format!("the command {excess} and was stopped")));
    };
    let _ = reader.join();
    ended
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::command::command;

    #[test]
    fn a_silent_command_is_stopped_and_the_silence_named() {
        let mut child = command("sleep", ["100"]).stdout(Stdio::piped()).spawn().unwrap();
        let job = Job {
            script: String::new(),
            files: Vec::new(),
            interactive: false,
            silence: Duration::from_millis(100),
            limit: Duration::from_secs(100),
        };

        let error = follow(&mut child, &job).unwrap_err();

        assert_eq!(error.to_string(), "the command said nothing for 0 s and was stopped");
    }
}
