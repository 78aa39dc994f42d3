//! A box's status as a user of its JSON reads it.

use serde_json::Value;

/// One answer of `twinsan --json status`.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// `primary`, `standby` or what it is on the way to.
    #[must_use]
    pub fn role(&self) -> &str {
        self.text("role")
    }

    /// True on the primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.role() == "primary"
    }

    /// Epoch of the accepted configuration.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0["epoch"].as_u64().unwrap_or_default()
    }

    /// Verdict, reason and next step, as one text.
    #[must_use]
    pub fn words(&self) -> String {
        format!(
            "{} {} {}",
            self.text("verdict"),
            self.text("why"),
            self.text("next")
        )
    }

    /// Why it is so.
    #[must_use]
    pub fn why(&self) -> &str {
        self.text("why")
    }

    /// The next step.
    #[must_use]
    pub fn next(&self) -> &str {
        self.text("next")
    }

    /// State of the mirror.
    #[must_use]
    pub fn mirror(&self) -> &str {
        self.0["mirror"]["state"].as_str().unwrap_or_default()
    }

    /// The data session to the other box is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0["mirror"]["connected"] == true
    }

    /// Blocks that this box has read to copy them to the other one.
    #[must_use]
    pub fn blocks_read(&self) -> u64 {
        self.0["mirror"]["blocks_read"].as_u64().unwrap_or_default()
    }

    /// Writes that this box has sent again.
    #[must_use]
    pub fn replayed_writes(&self) -> u64 {
        self.0["mirror"]["replayed_writes"]
            .as_u64()
            .unwrap_or_default()
    }

    /// iSCSI name of the target.
    #[must_use]
    pub fn target(&self) -> &str {
        self.text("target")
    }

    /// Boxes with every acknowledged write.
    #[must_use]
    pub fn in_sync(&self) -> Vec<&str> {
        let boxes = self.0["in_sync"].as_array();
        boxes
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// True on the primary of a pair that has everything twice.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.is_primary() && self.in_sync().len() == 2
    }

    /// Service addresses held here.
    #[must_use]
    pub fn addresses_here(&self) -> usize {
        let addresses = self.0["addresses"].as_array();
        addresses
            .into_iter()
            .flatten()
            .filter(|address| address["here"] == true)
            .count()
    }

    /// File, offset and size of the data of a volume: by its name or, as a standby does not know
    /// names, by its identity.
    #[must_use]
    pub fn data_area(&self, name_or_uuid: &str) -> Option<(String, u64, u64)> {
        let volume = self.volume(name_or_uuid)?;
        Some((
            volume["file"].as_str()?.to_owned(),
            volume["data_offset_bytes"].as_u64()?,
            volume["size_bytes"].as_u64()?,
        ))
    }

    /// Identity of a volume.
    #[must_use]
    pub fn uuid(&self, name: &str) -> Option<String> {
        Some(self.volume(name)?["uuid"].as_str()?.to_owned())
    }

    fn volume(&self, name_or_uuid: &str) -> Option<&Value> {
        let volumes = self.0["volumes"].as_array()?;
        volumes
            .iter()
            .find(|v| v["name"] == name_or_uuid || v["uuid"] == name_or_uuid)
    }
}
