//! Single commands, as a test tells them: what came back, or that nothing is known of their fate.

use bytes::Bytes;
use serde_json::{Value, json};
use tests::dialogue::say;
use tokio::sync::mpsc;

use crate::Where;
use crate::path::{Fate, Path};

/// Takes `CDB [DATA] IN_BYTES`, bytes in hexadecimal, and answers in order.
pub(crate) async fn drive(at: Where, mut lines: mpsc::UnboundedReceiver<String>) {
    let mut path = Path::new(&at);
    while let Some(line) = lines.recv().await {
        say(&answer(&mut path, &line).await);
    }
}

async fn answer(path: &mut Path, line: &str) -> Value {
    let words: Vec<&str> = line.split_whitespace().collect();
    let parsed = match words.as_slice() {
        [cdb, in_bytes] => parse(cdb, "", in_bytes),
        [cdb, data, in_bytes] => parse(cdb, data, in_bytes),
        _ => None,
    };
    let Some((cdb, data, in_bytes)) = parsed else {
        return json!({"ok": false, "error": format!("not a command: {line}")});
    };
    match path.attempt(cdb, data, in_bytes).await {
        Fate::Answered(answer) => {
            let sense = answer
                .sense_code()
                .map(|(key, code, more)| [key, code, more]);
            let data: Vec<u8> = answer.data.to_vec();
            json!({"ok": true, "status": answer.status, "sense": sense, "data": data})
        }
        Fate::Unknown => json!({"ok": true, "status": null}),
    }
}

fn parse(cdb: &str, data: &str, in_bytes: &str) -> Option<([u8; 16], Bytes, usize)> {
    let cdb = bytes(cdb)?.try_into().ok()?;
    Some((cdb, bytes(data)?.into(), in_bytes.parse().ok()?))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(digits).collect()
}
