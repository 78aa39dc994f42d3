//! The agent for APC units against net-snmp's `snmpd`, which answers with the objects of
//! PowerNet-MIB from files.

use std::net::SocketAddr;

use ha::fence::{Answer, Outcome, Power, Question};
use ha::shell::fence::{Access, Agent, ApcSnmp, AuthHash, Secret};

use super::{Folder, Running, SECRET, ask, desk, free_udp, secret, until_it_answers, why};

const PRIVACY: &str = "Battery,staple4";
const OUTLETS: &str = r#"#!/bin/sh
# net-snmp's convention: -g OID, -n OID, -s OID TYPE VALUE
cd "${0%/*}" || exit 1
base=.1.3.6.1.4.1.318.1.1.12.3
put() {
    case $1 in
    5.1.1.2.*) printf '%s\nstring\n%s\n' "$base.$1" "$(cat "name${1##*.}")" ;;
    5.1.1.4.*) printf '%s\ninteger\n%s\n' "$base.$1" "$(cat "state${1##*.}")" ;;
    3.1.1.4.*) printf '%s\ninteger\n1\n' "$base.$1" ;;
    esac
    exit 0
}
all="3.1.1.4.1 3.1.1.4.2 3.1.1.4.3 5.1.1.2.1 5.1.1.2.2 5.1.1.2.3 5.1.1.4.1 5.1.1.4.2 5.1.1.4.3"
asked=${2#"$base"}
asked=${asked#.}
case $1 in
-g) for one in $all; do [ "$one" = "$asked" ] && put "$one"; done ;;
-n)
    for one in $all; do
        first=$(printf '%s\n%s\n' "$one" "$asked" | sort -V | head -n 1)
        [ "$one" != "$asked" ] && [ "$first" = "$asked" ] && put "$one"
    done
    ;;
-s)
    echo "$asked $4" >> commands
    case $asked in
    3.1.1.4.*) [ "$4" = 2 ] && [ ! -e stuck ] && echo 2 > "state${asked##*.}" ;;
    *) echo not-writable ;;
    esac
    ;;
esac
exit 0
"#;

struct Unit {
    folder: Folder,
    address: SocketAddr,
    _running: Running,
}

impl Unit {
    fn start(name: &str) -> Self {
        let folder = Folder::new(name);
        let address = free_udp();
        let outlets = folder.program("outlets", OUTLETS);
        for (number, name) in [(1, "san1"), (2, "san2"), (3, "switch")] {
            folder.write(&format!("name{number}"), name);
            folder.write(&format!("state{number}"), "1\n");
        }
        let configuration = format!(
            "agentAddress udp:{}:{}\n\
             rwcommunity {SECRET} 127.0.0.1\n\
             createUser old MD5 \"{SECRET}\" AES \"{PRIVACY}\"\n\
             createUser new SHA \"{SECRET}\" AES \"{PRIVACY}\"\n\
             createUser newest SHA-256 \"{SECRET}\" AES \"{PRIVACY}\"\n\
             rwuser old priv\nrwuser new priv\nrwuser newest priv\n\
             pass .1.3.6.1.4.1.318.1.1.12.3 {}\n",
            address.ip(),
            address.port(),
            outlets.display()
        );
        folder.write("snmpd.conf", &configuration);
        let arguments = ["-f", "-C", "-c", "snmpd.conf"];
        let running = Running::start("snmpd", "snmpd", &arguments, &folder.0);
        Self {
            folder,
            address,
            _running: running,
        }
    }

    fn agent(&self, outlet: &str, access: Access) -> Agent {
        Agent::ApcSnmp(ApcSnmp {
            address: self.address,
            outlet: outlet.to_owned(),
            access,
        })
    }

    fn states(&self) -> String {
        [1, 2, 3]
            .map(|it| self.folder.read(&format!("state{it}")))
            .concat()
    }
}

fn v1() -> Access {
    Access::V1 {
        community: secret(),
    }
}

fn v3(user: &str, hash: AuthHash) -> Access {
    Access::V3 {
        user: user.to_owned(),
        hash,
        secret: secret(),
        privacy: Secret(PRIVACY.to_owned()),
    }
}

#[tokio::test]
async fn r11_the_outlet_of_that_name_goes_off_and_no_other() {
    let ways = [
        v1(),
        v3("old", AuthHash::Md5),
        v3("new", AuthHash::Sha1),
        v3("newest", AuthHash::Sha256),
    ];
    let unit = Unit::start("pdu-off");
    for access in ways {
        for number in 1..=3 {
            unit.folder.write(&format!("state{number}"), "1\n");
        }
        let agent = unit.agent("san2", access);
        let reply = until_it_answers(&agent).await;
        assert_eq!(reply.answer, Answer::Power(Power::On));
        assert!(reply.asked.contains("outlet 2 (san2)"), "{reply:?}");
        let (handle, _events) = desk(&[("pdu", 1, &agent)]).await;
        assert_eq!(handle.fence().await, Outcome::ConfirmedOff);
        assert_eq!(unit.states(), "1\n2\n1\n");
    }
    assert_eq!(unit.folder.read("commands"), "3.1.1.4.2 2\n".repeat(4));
}

#[tokio::test]
async fn two_supplies_of_one_box_are_two_outlets_of_one_level() {
    let unit = Unit::start("pdu-two");
    let (left, right) = (unit.agent("san2", v1()), unit.agent("switch", v1()));
    until_it_answers(&left).await;
    let (handle, _events) = desk(&[("left", 1, &left), ("right", 1, &right)]).await;
    assert_eq!(handle.fence().await, Outcome::ConfirmedOff);
    assert_eq!(unit.states(), "1\n2\n2\n");
}

#[tokio::test]
async fn an_outlet_that_is_stuck_missing_or_ambiguous_is_no_success() {
    let unit = Unit::start("pdu-stuck");
    let agent = unit.agent("san2", v1());
    until_it_answers(&agent).await;
    unit.folder.write("stuck", "");
    let (handle, _events) = desk(&[("pdu", 1, &agent)]).await;
    assert_eq!(handle.fence().await, Outcome::Failed);
    assert_eq!(unit.states(), "1\n1\n1\n");
    let missing = ask(&unit.agent("san9", v1()), Question::Off).await;
    let words = "no outlet is called san9; there are san1, san2, switch";
    assert_eq!(why(&missing), words);
    unit.folder.write("name3", "san2");
    let twice = ask(&agent, Question::Off).await;
    assert!(
        why(&twice).contains("2 outlets are called san2"),
        "{twice:?}"
    );
    let stranger = Access::V1 {
        community: Secret("public".to_owned()),
    };
    let reply = ask(&unit.agent("san1", stranger), Question::Power).await;
    assert!(matches!(reply.answer, Answer::Failed(_)), "{reply:?}");
    let wrong = v3("new", AuthHash::Sha256);
    let reply = ask(&unit.agent("san1", wrong), Question::Power).await;
    assert!(matches!(reply.answer, Answer::Failed(_)), "{reply:?}");
    assert_eq!(unit.states(), "1\n1\n1\n");
}
