//! What the demo says: lines for people, or one JSON object a line.

use serde_json::{Value, json};

use crate::api::types::SCHEMA;
use crate::clock::boot_ns;
use crate::verbs::say;

/// Says it in the form asked for.
pub(super) struct Report {
    json: bool,
    start_ns: u64,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            start_ns: boot_ns(),
        }
    }

    /// A line for people only.
    pub(super) fn line(&self, text: &str) {
        if !self.json {
            let elapsed_ms = (boot_ns() - self.start_ns) / 1_000_000;
            say(&format!(
                "{:>3}.{:01} s  {text}",
                elapsed_ms / 1000,
                elapsed_ms % 1000 / 100
            ));
        }
    }

    /// An event for programs only.
    pub(super) fn event(&self, name: &str, fields: Value) {
        if !self.json {
            return;
        }
        let mut event = json!({"event": name, "schema": SCHEMA});
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        say(&event.to_string());
    }

    /// The same thing in both forms.
    pub(super) fn both(&self, text: &str, name: &str, fields: Value) {
        self.line(text);
        self.event(name, fields);
    }
}
