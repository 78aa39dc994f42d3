//! `ipmitool` against `ipmi_sim`, the service processor of OpenIPMI.

use std::net::SocketAddr;
use std::path::PathBuf;

use ha::fence::{Answer, Outcome, Power, Question};
use ha::shell::fence::{Agent, Ipmi, Secret};

use super::{Folder, Running, SECRET, ask, desk, free_udp, secret, until_it_answers, why};

/// What the simulator runs to switch the power: the power is a file.
const CHASSIS: &str = r#"#!/bin/sh
cd "$1" || exit 1
echo "$@" >> calls
shift
operation=$1
shift
case $operation in
get)
    for what in "$@"; do
        case $what in
        power) echo "power:$(cat power)" ;;
        *) echo "$what:0" ;;
        esac
    done
    ;;
set)
    while [ $# -gt 1 ]; do
        [ "$1" = power ] && [ ! -e stuck ] && echo "$2" > power
        shift 2
    done
    ;;
esac
"#;

struct Simulator {
    folder: Folder,
    address: SocketAddr,
    _running: Running,
}

impl Simulator {
    fn start(name: &str) -> Self {
        let folder = Folder::new(name);
        let address = free_udp();
        let chassis = folder.program("chassis", CHASSIS);
        folder.write("power", "1\n");
        std::fs::create_dir(folder.0.join("state")).expect("a new folder");
        let auths = "none md2 md5 straight";
        let lan = format!(
            r#"name "san2"
set_working_mc 0x20
startlan 1
addr {} {}
priv_limit admin
allowed_auths_callback {auths}
allowed_auths_user {auths}
allowed_auths_operator {auths}
allowed_auths_admin {auths}
guid a123456789abcdefa123456789abcdef
endlan
chassis_control "{} {}"
user 1 true "" "nobody" user 10 {auths}
user 2 true "fence" "{SECRET}" operator 10 {auths}
"#,
            address.ip(),
            address.port(),
            chassis.display(),
            folder.0.display()
        );
        folder.write("lan.conf", &lan);
        let machine = "mc_setbmc 0x20\n\
             mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
             mc_enable 0x20\n";
        folder.write("san2.emu", machine);
        let arguments = ["-c", "lan.conf", "-f", "san2.emu", "-s", "state", "-n"];
        let running = Running::start("ipmi_sim", "openipmi", &arguments, &folder.0);
        Self {
            folder,
            address,
            _running: running,
        }
    }

    fn ipmi(&self) -> Ipmi {
        Ipmi {
            address: self.address,
            user: "fence".to_owned(),
            secret: secret(),
            // The simulator knows nothing newer.
            cipher_suite: Some(3),
            ipmitool: PathBuf::from("/usr/bin/ipmitool"),
        }
    }
}

#[tokio::test]
async fn r11_the_processor_turns_its_box_off_and_says_so() {
    let simulator = Simulator::start("ipmi-off");
    let agent = Agent::Ipmi(simulator.ipmi());
    let reply = until_it_answers(&agent).await;
    assert_eq!(reply.answer, Answer::Power(Power::On));
    assert_eq!(reply.answered, "Chassis Power is on");
    assert!(
        reply.asked.ends_with("-E chassis power status"),
        "{reply:?}"
    );
    let (handle, _events) = desk(&[("bmc", 1, &agent)]).await;
    assert_eq!(handle.fence().await, Outcome::ConfirmedOff);
    assert_eq!(simulator.folder.read("power"), "0\n");
    let calls = simulator.folder.read("calls");
    let commands: Vec<_> = calls.lines().filter(|it| it.contains(" set ")).collect();
    assert_eq!(commands.len(), 1, "{calls}");
    assert!(
        commands[0].ends_with("set power 0"),
        "off and no cycle: {calls}"
    );
}

#[tokio::test]
async fn a_processor_without_power_over_its_box_is_not_believed() {
    let simulator = Simulator::start("ipmi-stuck");
    let agent = Agent::Ipmi(simulator.ipmi());
    until_it_answers(&agent).await;
    simulator.folder.write("stuck", "");
    let (handle, _events) = desk(&[("bmc", 1, &agent)]).await;
    assert_eq!(handle.fence().await, Outcome::Failed);
    assert_eq!(simulator.folder.read("power"), "1\n");
}

#[tokio::test]
async fn what_ipmitool_says_is_told_without_the_secret() {
    let simulator = Simulator::start("ipmi-wrong");
    let right = Agent::Ipmi(simulator.ipmi());
    until_it_answers(&right).await;
    let wrong = Agent::Ipmi(Ipmi {
        secret: Secret("other".to_owned()),
        ..simulator.ipmi()
    });
    let reply = ask(&wrong, Question::Off).await;
    assert!(why(&reply).contains("Unable to establish"), "{reply:?}");
    assert_eq!(simulator.folder.read("power"), "1\n");
    let nobody = Agent::Ipmi(Ipmi {
        address: free_udp(),
        ..simulator.ipmi()
    });
    let reply = ask(&nobody, Question::Power).await;
    assert!(matches!(reply.answer, Answer::Failed(_)), "{reply:?}");
    let missing = Agent::Ipmi(Ipmi {
        ipmitool: PathBuf::from("/nonexistent/ipmitool"),
        ..simulator.ipmi()
    });
    let reply = ask(&missing, Question::Power).await;
    assert!(why(&reply).contains("install ipmitool"), "{reply:?}");
}
