//! The written partition table, judged by `sgdisk`: an implementation that is not ours.
#![cfg(feature = "build")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::build::disk::{self, DiskIdentity};
use image::layout::{BiosBoot, IMAGE_BYTES, Layout};

const IDENTITY: DiskIdentity = DiskIdentity(0x7411_5a4e_0000_4000_8000_0000_0000_0001);

fn write(name: &str, disk_bytes: u64, bios: BiosBoot) -> (PathBuf, Layout) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        fs::remove_file(&path).expect("an image of an earlier run goes");
    }
    let layout = Layout::for_disk(disk_bytes, bios).expect("large enough");
    disk::create(&path, &layout, IDENTITY).expect("the image is written");
    (path, layout)
}

fn sgdisk(arguments: &[&str], image: &Path) -> String {
    let output = Command::new("sgdisk")
        .args(arguments)
        .arg(image)
        .env(
            "PATH",
            format!(
                "{}:/usr/sbin:/sbin",
                std::env::var("PATH").unwrap_or_default()
            ),
        )
        .output()
        .expect("sgdisk is missing, install it: apt-get install -y gdisk");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "sgdisk {arguments:?} says {}: {text}",
        output.status
    );
    text
}

#[test]
fn sgdisk_finds_no_problem_in_the_table() {
    let cases = [
        ("small.img", IMAGE_BYTES, BiosBoot::No),
        ("bios.img", IMAGE_BYTES, BiosBoot::Yes),
        // sparse: beyond the 32-bit sector count of the protective MBR
        ("large.img", 3 << 40, BiosBoot::Yes),
    ];
    for (name, disk_bytes, bios) in cases {
        let (path, _) = write(name, disk_bytes, bios);
        let verdict = sgdisk(&["--verify"], &path);
        assert!(verdict.contains("No problems found"), "{name}: {verdict}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn sgdisk_finds_a_damaged_table() {
    let (path, _) = write("damaged.img", IMAGE_BYTES, BiosBoot::No);
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * 512 + 40] ^= 1;
    fs::write(&path, bytes).unwrap();
    let verdict = sgdisk(&["--verify"], &path);
    assert!(!verdict.contains("No problems found"), "{verdict}");
    fs::remove_file(path).unwrap();
}

#[test]
fn sgdisk_lists_the_partitions_of_the_layout() {
    let (path, layout) = write("listed.img", IMAGE_BYTES, BiosBoot::Yes);
    let printed = sgdisk(&["--print"], &path);
    let listed: Vec<Vec<&str>> = printed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .skip_while(|words: &Vec<&str>| words.first() != Some(&"Number"))
        .skip(1)
        .collect();
    assert_eq!(listed.len(), layout.partitions().len(), "{printed}");
    for (row, partition) in listed.iter().zip(layout.partitions()) {
        let code = match partition.role {
            image::layout::Role::Esp => "EF00",
            image::layout::Role::State => "8300",
            image::layout::Role::BiosBoot => "EF02",
        };
        let (number, first, last) = (
            partition.role.number().to_string(),
            partition.first.0,
            partition.last.0,
        );
        assert_eq!(
            row[..3],
            [number, first.to_string(), last.to_string()],
            "{printed}"
        );
        assert_eq!(row[5..], [code, partition.role.name()], "{printed}");
    }
    fs::remove_file(path).unwrap();
}

#[test]
fn the_same_identity_gives_the_same_bytes() {
    let (one, _) = write("one.img", IMAGE_BYTES, BiosBoot::No);
    let (two, _) = write("two.img", IMAGE_BYTES, BiosBoot::No);
    assert!(
        fs::read(&one).unwrap() == fs::read(&two).unwrap(),
        "images differ"
    );
    fs::remove_file(one).unwrap();
    fs::remove_file(two).unwrap();
}

#[test]
fn an_existing_image_is_not_patched() {
    let (path, layout) = write("kept.img", IMAGE_BYTES, BiosBoot::No);
    let refused = disk::create(&path, &layout, IDENTITY).unwrap_err();
    assert!(
        refused.to_string().contains("cannot create the image"),
        "{refused}"
    );
    fs::remove_file(path).unwrap();
}

/// Fails when `cargo ci -- --inject-failure image` asks for it, to show that the stage can.
#[test]
fn injected_failure() {
    assert_ne!(
        std::env::var("TWINSAN_INJECT_FAILURE").as_deref(),
        Ok("image")
    );
}
