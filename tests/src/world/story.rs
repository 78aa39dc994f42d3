//! The few lines that a scenario's golden trace consists of: who leads, and what operators heard.

use super::World;
use crate::net::Host;

impl World {
    /// The lines since the last call.
    pub fn take_story(&mut self) -> Vec<String> {
        std::mem::take(&mut self.story)
    }

    pub(super) fn narrate_config(&mut self) {
        let Some(config) = self.register.config() else {
            return;
        };
        let in_sync: Vec<String> = config
            .in_sync
            .iter()
            .map(|node| Host(node.0).to_string())
            .collect();
        let primary = match config.primary {
            Some((node, _)) => Host(node.0).to_string(),
            None => "none".to_owned(),
        };
        let line = format!(
            "epoch {} chosen ({:?}): primary {primary}, in sync {}",
            config.epoch,
            config.reason,
            in_sync.join(" and ")
        );
        self.story.push(line);
    }

    pub(super) fn narrate_resource(&mut self, host: Host, resource: ha::Resource, verb: &str) {
        if resource == ha::Resource::Addresses {
            self.story.push(format!("{host} {verb} the addresses"));
        }
    }

    pub(super) fn narrate_answer(&mut self, host: Host, result: &Result<(), ha::Refused>) {
        self.story.push(match result {
            Ok(()) => format!("{host} tells the operator: done"),
            Err(why) => format!("{host} tells the operator: {why}"),
        });
    }
}
