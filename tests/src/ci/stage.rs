//! The table of stages: what runs, when, with which packages, and how it is counted.

use std::fs;
use std::path::Path;

use super::Plan;
use super::counts::Expect;
use super::packages::Package;

/// How much runs; a later tier includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Minutes: before a commit.
    Quick,
    /// Everything.
    Plain,
    /// Everything, and the soaks.
    Long,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// Name on the command line, of the log and in the summary.
    pub name: &'static str,
    /// The first tier that runs it.
    pub tier: Tier,
    /// Whether it needs its time and little of the machine: the stage after it runs meanwhile.
    pub at_leisure: bool,
    /// Without these it is skipped.
    pub packages: &'static [Package],
    /// Its commands, in order. A failed one does not stop the next.
    pub steps: fn(&Plan) -> Vec<Step>,
}

/// One command of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Program and arguments, run in the root of the repository.
    pub command: Vec<String>,
    /// How it is judged.
    pub expect: Expect,
    /// After this many seconds it is killed; generous, it only ends a hang.
    pub limit_s: u32,
}

/// All stages, in the order they run.
pub const STAGES: &[Stage] = &[
    Stage {
        name: "format",
        tier: Tier::Quick,
        at_leisure: false,
        packages: &[],
        steps: format,
    },
    Stage {
        name: "lints",
        tier: Tier::Quick,
        at_leisure: false,
        packages: &[],
        steps: lints,
    },
    Stage {
        name: "unit",
        tier: Tier::Quick,
        at_leisure: false,
        packages: &[IPMITOOL, OPENIPMI, PYTHON, SNMPD],
        steps: unit,
    },
    Stage {
        name: "hostile",
        tier: Tier::Plain,
        at_leisure: true,
        packages: &[],
        steps: hostile,
    },
    Stage {
        name: "swarm",
        tier: Tier::Quick,
        at_leisure: false,
        packages: &[],
        steps: swarm,
    },
    Stage {
        name: "demo",
        tier: Tier::Quick,
        at_leisure: false,
        packages: &[],
        steps: demo,
    },
    Stage {
        name: "fuzz",
        tier: Tier::Plain,
        at_leisure: false,
        packages: &[CXX],
        steps: fuzz,
    },
    Stage {
        name: "image",
        tier: Tier::Plain,
        at_leisure: false,
        packages: &[GDISK],
        steps: image,
    },
    Stage {
        name: "conformance",
        tier: Tier::Plain,
        at_leisure: false,
        packages: &[LIBISCSI],
        steps: conformance,
    },
    Stage {
        name: "program",
        tier: Tier::Plain,
        at_leisure: false,
        packages: &[LIBISCSI, QEMU_IMG, QEMU_ISCSI],
        steps: program,
    },
    Stage {
        name: "cluster",
        tier: Tier::Plain,
        at_leisure: false,
        packages: &[IPROUTE, NFTABLES, PYTHON],
        steps: cluster,
    },
    Stage {
        name: "qemu",
        tier: Tier::Plain,
        at_leisure: false,
        packages: &[QEMU, PYTHON],
        steps: qemu,
    },
    Stage {
        name: "mutants",
        tier: Tier::Plain,
        at_leisure: false,
        packages: &[],
        steps: mutants,
    },
];

/// The crates that must build without their shells.
const ENGINES: [&str; 3] = ["iscsi-target", "replication", "ha"];

/// Packages that only a shell may use: a runtime, sockets, files, system calls, randomness.
const SHELL_ONLY: &[&str] = &[
    "async-io",
    "getrandom",
    "io-uring",
    "libc",
    "mio",
    "nix",
    "polling",
    "rand",
    "rtnetlink",
    "rustix",
    "signal-hook-registry",
    "smol",
    "socket2",
    "tokio",
];

fn format(plan: &Plan) -> Vec<Step> {
    let mut steps = vec![cargo("fmt --all --check", Expect::Success)];
    if plan.injects("format") {
        let file = violation(plan, "format/src/lib.rs", "fn  f( ){}\n");
        steps.push(step(&["rustfmt", "--check", &file], Expect::Success));
    }
    steps
}

fn lints(plan: &Plan) -> Vec<Step> {
    let clippy = "clippy --workspace --all-targets --all-features -- -D warnings";
    let mut steps = vec![cargo(clippy, Expect::Success)];
    for engine in ENGINES {
        let check = format!("check --package {engine} --no-default-features");
        steps.push(cargo(&check, Expect::Success));
        let tree = format!(
            "tree --package {engine} --no-default-features --edges normal --prefix none \
             --target x86_64-unknown-linux-gnu"
        );
        steps.push(cargo(&tree, Expect::NoneOf(SHELL_ONLY)));
    }
    if plan.injects("lints") {
        let manifest = "[package]\nname = \"violation\"\nedition = \"2024\"\n[workspace]\n";
        let manifest = violation(plan, "lints/Cargo.toml", manifest);
        violation(plan, "lints/src/lib.rs", "fn never_called() {}\n");
        let clippy = format!("clippy --manifest-path {manifest} -- -D warnings");
        steps.push(cargo(&clippy, Expect::Success));
    }
    steps
}

/// The tests of this crate that need more than a compiler, and the stages that run them.
const OWN_STAGE: [(&str, &str); 8] = [
    ("bad_input", "program"),
    ("cluster", "cluster"),
    ("cluster_volatile", "cluster"),
    ("conformance", "conformance"),
    ("cycles", "cluster"),
    ("demo", "program"),
    ("hostile", "hostile"),
    ("shared_lun", "cluster"),
];

fn unit(plan: &Plan) -> Vec<Step> {
    let others = "test --workspace --exclude qemu --exclude tests --no-fail-fast";
    // with the feature of the quick tier's swarm and demo, which then need no build of their own
    let ours = "test --package tests --features mutants --lib --bins --no-fail-fast";
    let mut ours = ours.to_owned();
    for name in integration_tests(&plan.repository.join("tests/tests")) {
        if !OWN_STAGE.iter().any(|(test, _)| *test == name) {
            ours.push_str(" --test ");
            ours.push_str(&name);
        }
    }
    vec![
        cargo(others, Expect::RustTests),
        cargo(&ours, Expect::RustTests),
    ]
}

fn integration_tests(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let in_folder = entry.path().join("main.rs").is_file().then(|| name.clone());
            in_folder.or_else(|| name.strip_suffix(".rs").map(str::to_owned))
        })
        .collect();
    names.sort();
    names
}

fn swarm(plan: &Plan) -> Vec<Step> {
    let histories = match plan.tier {
        Tier::Quick => 2_000,
        Tier::Plain => 50_000,
        Tier::Long => 200_000,
    };
    let swarm = match plan.tier {
        Tier::Quick => "run --quiet --package tests --features mutants --bin swarm",
        Tier::Plain | Tier::Long => "swarm",
    };
    let options = if plan.injects("swarm") {
        // broken cores: a few histories find that, and the stage has to say so
        "--histories 50 --mutant ack-without-peer".to_owned()
    } else {
        format!("--histories {histories}")
    };
    vec![Step {
        limit_s: LIMIT_S.max(histories / 10),
        ..cargo(&format!("{swarm} -- {options}"), Expect::Swarm)
    }]
}

fn mutants(plan: &Plan) -> Vec<Step> {
    let mut steps = vec![
        cargo(
            "test --package ha --features mutants --test trio kill",
            Expect::RustTests,
        ),
        cargo(
            "test --package replication --features mutants --test engine kill",
            Expect::RustTests,
        ),
    ];
    if plan.tier == Tier::Long {
        // minutes: the simulator finds many of them without being told where
        steps.push(cargo("swarm -- --mutants", Expect::Kills));
    }
    if plan.injects("mutants") {
        // an unbroken program: nothing is killed, and the stage has to say so
        steps.push(cargo("swarm -- --histories 1", Expect::Kills));
    }
    steps
}

fn demo(plan: &Plan) -> Vec<Step> {
    // the quick tier builds nothing for release
    let (demo, rest) = match plan.tier {
        Tier::Quick => (
            "run --quiet --package appliance --features mutants --bin twinsan -- demo",
            "",
        ),
        Tier::Plain | Tier::Long => ("demo", " --"),
    };
    let sabotage = format!("{demo}{rest} --sabotage drop-ack");
    let honest = if plan.injects("demo") {
        &sabotage
    } else {
        demo
    };
    vec![
        cargo(honest, Expect::Success),
        cargo(&sabotage, Expect::FailureNamingBlock),
    ]
}

/// What every fuzz target is, and the names of all.
const FUZZ_PACKAGE: &str = "iscsi-target-fuzz";
const FUZZ_TARGETS: [&str; 3] = ["pdus", "login", "commands"];
/// As `cargo fuzz build -s none` does it, which needs no nightly compiler.
const FUZZ_FLAGS: &str = "RUSTFLAGS=--cfg fuzzing -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Cdebug-assertions -Ccodegen-units=1";

/// Each target for a while, from its seeds on. What is found is kept for the next run of the same
/// working copy; an input that fails is left in that folder.
fn fuzz(plan: &Plan) -> Vec<Step> {
    let seconds = match plan.tier {
        Tier::Quick | Tier::Plain => 20,
        Tier::Long => 600,
    };
    let seeds = plan.repository.join("iscsi-target/fuzz/corpus");
    let mut steps: Vec<Step> = FUZZ_TARGETS
        .iter()
        .map(|target| {
            let found = plan.target.join("ci").join("fuzz").join(target);
            // one that cannot be made fails the step, which needs it
            let _ = fs::create_dir_all(&found);
            let (found, seeds) = (found.display(), seeds.join(target));
            let line = format!(
                "run --quiet --release --package {FUZZ_PACKAGE} --bin {target} \
                 --target x86_64-unknown-linux-gnu -- -max_total_time={seconds} \
                 -print_final_stats=1 -artifact_prefix={found}/ {found} {}",
                seeds.display()
            );
            let cargo = cargo(&line, Expect::Fuzz);
            let environment = ["env", FUZZ_FLAGS].map(str::to_owned);
            Step {
                command: environment.into_iter().chain(cargo.command).collect(),
                ..cargo
            }
        })
        .collect();
    if plan.injects("fuzz") {
        // a fuzzer that executes nothing, and the stage has to say so
        steps.push(step(&["true"], Expect::Fuzz));
    }
    steps
}

fn image(_: &Plan) -> Vec<Step> {
    vec![cargo(
        "test --package image --features build --no-fail-fast",
        Expect::RustTests,
    )]
}

fn conformance(_: &Plan) -> Vec<Step> {
    vec![cargo(
        "test --package tests --test conformance --no-fail-fast",
        Expect::RustTests,
    )]
}

fn program(_: &Plan) -> Vec<Step> {
    // one at a time: each has the same addresses of loopback
    let command = "test --package tests --test bad_input --test demo --no-fail-fast -- \
                   --test-threads 1";
    vec![cargo(command, Expect::RustTests)]
}

/// Needs little of the machine, but all of its time.
fn hostile(plan: &Plan) -> Vec<Step> {
    let seconds = match plan.tier {
        Tier::Quick | Tier::Plain => 600,
        Tier::Long => 3600,
    };
    let test = cargo(
        "test --package tests --test hostile --no-fail-fast",
        Expect::RustTests,
    );
    let test = with_variable("TWINSAN_HOSTILE_SECONDS", seconds, test);
    vec![Step {
        limit_s: LIMIT_S + seconds,
        ..test
    }]
}

fn with_variable(name: &str, value: u32, step: Step) -> Step {
    let environment = ["env".to_owned(), format!("{name}={value}")];
    Step {
        command: environment.into_iter().chain(step.command).collect(),
        ..step
    }
}

fn cluster(plan: &Plan) -> Vec<Step> {
    // one at a time: each uses whole network namespaces and both processors
    let rows = "test --package tests --test cluster --test cluster_volatile \
                --test shared_lun --no-fail-fast -- --test-threads 1";
    let cycles = "test --package tests --test cycles --no-fail-fast -- --test-threads 1";
    // on each kind of disk
    let faults = match plan.tier {
        Tier::Quick | Tier::Plain => 10,
        Tier::Long => 250,
    };
    let cycles = with_variable("TWINSAN_CYCLES", faults, cargo(cycles, Expect::RustTests));
    let long = cycles.limit_s + 60 * faults;
    vec![
        cargo(rows, Expect::RustTests),
        Step {
            limit_s: long,
            ..cycles
        },
    ]
}

fn qemu(_: &Plan) -> Vec<Step> {
    vec![cargo(
        "test --package qemu --no-fail-fast",
        Expect::RustTests,
    )]
}

fn cargo(arguments: &str, expect: Expect) -> Step {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let command = [cargo]
        .into_iter()
        .chain(arguments.split(' ').map(str::to_owned))
        .collect();
    Step {
        command,
        expect,
        limit_s: LIMIT_S,
    }
}

fn step(command: &[&str], expect: Expect) -> Step {
    let command = command.iter().map(|&word| word.to_owned()).collect();
    Step {
        command,
        expect,
        limit_s: LIMIT_S,
    }
}

/// Writes a file that breaks a rule on purpose and gives its path. A file that could not be
/// written breaks the step as well, so an error here needs no report of its own.
fn violation(plan: &Plan, name: &str, text: &str) -> String {
    let path = plan.target.join("ci").join("violations").join(name);
    if let Some(folder) = path.parent() {
        let _ = fs::create_dir_all(folder);
    }
    let _ = fs::write(&path, text);
    path.display().to_string()
}

const LIMIT_S: u32 = 30 * 60;

const CXX: Package = Package {
    name: "g++",
    program: "c++",
};
const GDISK: Package = Package {
    name: "gdisk",
    program: "sgdisk",
};
const IPMITOOL: Package = Package {
    name: "ipmitool",
    program: "ipmitool",
};
const IPROUTE: Package = Package {
    name: "iproute2",
    program: "ip",
};
const LIBISCSI: Package = Package {
    name: "libiscsi-bin",
    program: "iscsi-test-cu",
};
const NFTABLES: Package = Package {
    name: "nftables",
    program: "nft",
};
const OPENIPMI: Package = Package {
    name: "openipmi",
    program: "ipmi_sim",
};
const PYTHON: Package = Package {
    name: "python3",
    program: "python3",
};
const QEMU: Package = Package {
    name: "qemu-system-x86",
    program: "qemu-system-x86_64",
};
const QEMU_IMG: Package = Package {
    name: "qemu-utils",
    program: "qemu-img",
};
const QEMU_ISCSI: Package = Package {
    name: "qemu-block-extra",
    program: "/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so",
};
const SNMPD: Package = Package {
    name: "snmpd",
    program: "snmpd",
};

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn plan(tier: Tier, inject_failure: Option<&str>) -> Plan {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = std::env::temp_dir().join(format!("twinsan-ci-{}", std::process::id()));
        Plan {
            tier,
            inject_failure: inject_failure.map(str::to_owned),
            repository,
            target,
        }
    }

    fn lines(steps: &[Step]) -> Vec<String> {
        steps
            .iter()
            .map(|step| step.command[1..].join(" "))
            .collect()
    }

    #[test]
    fn names_are_unique_and_every_stage_has_a_step() {
        for (index, stage) in STAGES.iter().enumerate() {
            assert!(STAGES[..index].iter().all(|other| other.name != stage.name));
            assert!(
                !(stage.steps)(&plan(Tier::Plain, None)).is_empty(),
                "{}",
                stage.name
            );
        }
    }

    #[test]
    fn the_swarm_grows_with_the_tier() {
        let count = |tier| lines(&swarm(&plan(tier, None)));
        let quick = "run --quiet --package tests --features mutants --bin swarm";
        assert_eq!(count(Tier::Quick), [format!("{quick} -- --histories 2000")]);
        assert_eq!(count(Tier::Plain), ["swarm -- --histories 50000"]);
        assert_eq!(count(Tier::Long), ["swarm -- --histories 200000"]);
        let injected = lines(&swarm(&plan(Tier::Plain, Some("swarm"))));
        assert!(injected[0].ends_with("--mutant ack-without-peer"));
    }

    #[test]
    fn unit_runs_our_tests_but_those_with_a_stage_of_their_own() {
        let line = &lines(&unit(&plan(Tier::Quick, None)))[1];
        assert!(line.contains("--test tidy"), "{line}");
        for (test, name) in OWN_STAGE {
            assert!(!line.contains(&format!("--test {test}")), "{line}");
            let stage = STAGES.iter().find(|stage| stage.name == name);
            let steps = lines(&(stage.expect("a stage").steps)(&plan(Tier::Plain, None)));
            let runs = format!("--test {test} ");
            assert!(
                steps.iter().any(|step| format!("{step} ").contains(&runs)),
                "{test}"
            );
        }
    }

    #[test]
    fn an_injected_failure_adds_a_step_that_fails_honestly() {
        let injected = plan(Tier::Quick, Some("lints"));
        let steps = lines(&lints(&injected));
        assert_eq!(steps.len(), lints(&plan(Tier::Quick, None)).len() + 1);
        let written = injected.target.join("ci/violations/lints/src/lib.rs");
        assert!(
            fs::read_to_string(&written)
                .unwrap()
                .contains("never_called")
        );
        fs::remove_dir_all(injected.target).unwrap();
        assert_eq!(format(&plan(Tier::Quick, None)).len(), 1);
    }

    #[test]
    fn the_simulators_kill_table_is_for_the_long_tier() {
        let count = |tier| mutants(&plan(tier, None)).len();
        assert_eq!((count(Tier::Plain), count(Tier::Long)), (2, 3));
        let injected = mutants(&plan(Tier::Plain, Some("mutants")));
        assert_eq!(injected[2].expect, Expect::Kills);
    }

    #[test]
    fn every_fuzz_target_is_run_for_a_while() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let workspace = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        assert!(
            workspace.contains("\"iscsi-target/fuzz\""),
            "its seeds are tests of the workspace"
        );
        let targets = root.join("iscsi-target/fuzz");
        for (tier, time) in [(Tier::Plain, "=20"), (Tier::Long, "=600")] {
            let plan = plan(tier, None);
            let steps = fuzz(&plan);
            let files = fs::read_dir(targets.join("fuzz_targets")).unwrap().count();
            assert_eq!(steps.len(), files, "a target of each file");
            for (step, target) in steps.iter().zip(FUZZ_TARGETS) {
                let line = step.command.join(" ");
                assert!(line.contains(&format!("-max_total_time{time} ")), "{line}");
                assert!(line.contains(&format!("--bin {target} ")), "{line}");
                assert!(targets.join("corpus").join(target).is_dir());
            }
            fs::remove_dir_all(plan.target).unwrap();
        }
        let injected = plan(Tier::Plain, Some("fuzz"));
        assert_eq!(fuzz(&injected).len(), FUZZ_TARGETS.len() + 1);
    }

    #[test]
    fn the_demo_is_also_run_sabotaged() {
        let steps = demo(&plan(Tier::Plain, None));
        assert_eq!(lines(&steps), ["demo", "demo -- --sabotage drop-ack"]);
        assert_eq!(steps[1].expect, Expect::FailureNamingBlock);
        let injected = demo(&plan(Tier::Plain, Some("demo")));
        assert_eq!(
            (injected[0].expect, lines(&injected)[0].as_str()),
            (Expect::Success, "demo -- --sabotage drop-ack")
        );
    }

    #[test]
    fn a_missing_test_folder_is_an_empty_list() {
        assert!(integration_tests(&PathBuf::from("/nonexistent")).is_empty());
    }
}
