//! What both boxes hold of a block that differs, kept as files for whoever finds out why.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use replication::types::VolumeNumber;

use crate::config::Cluster;

/// Files kept; older findings are worth more than the next ones of the same fault.
const FILES_MAX: usize = 64;
/// Initiators count in these.
const LBA_BYTES: u64 = 512;

/// Where the files are.
#[must_use]
pub(crate) fn folder(state: &Path) -> PathBuf {
    state.join("scrub")
}

/// Keeps the images, each with the name of its box; what an operator hears of it.
#[must_use]
pub(crate) fn keep(
    state: &Path,
    (number, offset_bytes): (VolumeNumber, u64),
    images: [(&str, &Bytes); 2],
    cluster: &Cluster,
) -> String {
    let folder = folder(state);
    let lba = offset_bytes / LBA_BYTES;
    let known = cluster.volumes.iter().find(|it| it.number == number.0);
    let short = match known {
        _ if number == VolumeNumber::SYSTEM => "system".to_owned(),
        Some(volume) => volume.name.clone(),
        None => format!("number{number}"),
    };
    let file = |node: &str| folder.join(format!("{short}-{lba}-{node}.bin"));
    let files = images.map(|(node, image)| (file(node), image));
    let kept = match write(&folder, &files) {
        Ok(()) => {
            let [(here, _), (there, _)] = &files;
            format!("these are in {} and {}", shown(here), shown(there))
        }
        Err(why) => format!("these could not be kept: {why}"),
    };
    let [(here, _), (there, _)] = images;
    format!(
        "alarm: the copies of {} differ at LBA {lba} ({LBA_BYTES} bytes each), in 4 KiB that \
         nobody was writing: the disks of one box changed or lost them. Initiators read what \
         {here} has, and would read what {there} has after a fail-over; {kept}. Nothing was \
         repaired: find out which is right, check the disks of both boxes, and write the block \
         anew",
        volume_named(number, cluster)
    )
}

/// What people call a volume. The configuration is read once the box serves; before that only the
/// number is known.
#[must_use]
pub(crate) fn volume_named(number: VolumeNumber, cluster: &Cluster) -> String {
    let known = cluster.volumes.iter().find(|it| it.number == number.0);
    match known {
        _ if number == VolumeNumber::SYSTEM => "the system volume".to_owned(),
        Some(volume) => format!("volume {}", volume.name),
        None => format!("volume number {number}"),
    }
}

fn write(folder: &Path, files: &[(PathBuf, &Bytes); 2]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{} cannot be written: {error}", shown(folder));
    fs::create_dir_all(folder).map_err(failed)?;
    let there = fs::read_dir(folder).map_err(failed)?.count();
    let known = files.iter().all(|(file, _)| file.exists());
    if !known && there + files.len() > FILES_MAX {
        return Err(format!("{} holds {there} files already", shown(folder)));
    }
    for (file, image) in files {
        fs::write(file, image).map_err(failed)?;
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_images_are_kept_under_the_names_of_volume_block_and_box() {
        let state = std::env::temp_dir().join(format!("twinsan-images-{}", std::process::id()));
        let (here, there) = (Bytes::from(vec![1; 4096]), Bytes::from(vec![2; 4096]));
        let images = [("san1", &here), ("san2", &there)];
        let cluster = Cluster::default();
        let keep = |at: u64| keep(&state, (VolumeNumber(7), at * 4096), images, &cluster);
        let text = keep(3);
        assert!(
            text.contains("volume number 7") && text.contains("LBA 24"),
            "{text}"
        );
        let image = |name: &str| fs::read(folder(&state).join(name)).expect("a file");
        assert_eq!(image("number7-24-san1.bin"), here);
        assert_eq!(image("number7-24-san2.bin"), there);
        let told: Vec<String> = (0..40).map(keep).collect();
        assert!(told[39].contains("could not be kept"), "{}", told[39]);
        assert!(
            keep(3).contains("these are in"),
            "known ones are written again"
        );
        let count = fs::read_dir(folder(&state)).expect("a folder").count();
        assert_eq!(count, FILES_MAX);
        fs::remove_dir_all(&state).expect("its own folder");
    }
}
