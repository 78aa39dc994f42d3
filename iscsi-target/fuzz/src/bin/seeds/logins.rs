//! Logins, good and bad.

use iscsi_target_fuzz::{INITIATOR, PROVER, TARGET};

use super::Seeds;

/// What every initiator offers, and more.
const KEYS: &str = "HeaderDigest=CRC32C,None\0DataDigest=None\0MaxConnections=1\0InitialR2T=No\0\
    ImmediateData=Yes\0MaxRecvDataSegmentLength=262144\0MaxBurstLength=16776192\0\
    FirstBurstLength=262144\0DefaultTime2Wait=2\0DefaultTime2Retain=20\0MaxOutstandingR2T=1\0\
    DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0ErrorRecoveryLevel=0\0IFMarker=No\0\
    OFMarker=No\0TaskReporting=FastAbort\0iSCSIProtocolLevel=2\0X-org.example=1\0";
/// A wrong one, with the challenge sent back.
const PROOF: &str = "CHAP_N=prover\0CHAP_R=0x00\0CHAP_I=9\0CHAP_C=0xabababababababababababababab\0";
const NUMBERS: &str = "MaxBurstLength=0x\0FirstBurstLength=-1\0\
    MaxRecvDataSegmentLength=99999999999\0";

/// Each request is a byte of flags, two bytes of length, and text.
pub(crate) fn seeds() -> Seeds {
    let mut all = without_proof();
    all.extend(with_proof());
    all
}

fn without_proof() -> Seeds {
    let names = names(INITIATOR);
    let discovery = format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0");
    let strange: String = (0..70).map(|n| format!("X-{n}=1\0")).collect();
    vec![
        login("at-once", &[(0x87, &[&names, KEYS])]),
        login(
            "stages",
            &[
                (0x81, &[&names, "AuthMethod=CHAP,None\0"]),
                (0x04, &[KEYS]),
                (0x87, &[]),
            ],
        ),
        login("discovery", &[(0x87, &[&discovery])]),
        login(
            "parts",
            &[
                (0x44, &["Initiator"]),
                (0x44, &["Name=iqn."]),
                (0x87, &["x\0"]),
            ],
        ),
        login("part-and-transit", &[(0xc7, &[&names])]),
        login("strange-keys", &[(0x87, &[&names, &strange])]),
        login(
            "twice",
            &[
                (0x04, &[&names, "HeaderDigest=None\0"]),
                (0x87, &["HeaderDigest=CRC32C\0"]),
            ],
        ),
        login("numbers", &[(0x87, &[&names, NUMBERS])]),
        login("no-pairs", &[(0x87, &["=\0=\0a\0\0\u{7f}\0"])]),
        login("back", &[(0x85, &[&names]), (0x81, &[])]),
        login("nothing", &[(0x87, &[])]),
    ]
}

fn with_proof() -> Seeds {
    let (names, prover) = (names(INITIATOR), names(PROVER));
    let method = "AuthMethod=CHAP\0";
    vec![
        login(
            "chap",
            &[
                (0x81, &[&prover, method]),
                (0, &["CHAP_A=8,7,6,5\0"]),
                (0x83, &[PROOF]),
            ],
        ),
        login("chap-left-out", &[(0x87, &[&prover])]),
        login("chap-none", &[(0x83, &[&prover, "AuthMethod=None\0"])]),
        login("chap-early", &[(0x81, &[&prover, method, PROOF])]),
        login("renamed", &[(0x04, &[&names]), (0x87, &[&prover])]),
    ]
}

fn names(initiator: &str) -> String {
    format!("InitiatorName={initiator}\0TargetName={TARGET}\0")
}

fn login(name: &str, requests: &[(u8, &[&str])]) -> (String, Vec<u8>) {
    let request = |(flags, parts): &(u8, &[&str])| {
        let text = parts.concat();
        let len = u16::try_from(text.len()).expect("short");
        [&[*flags][..], &len.to_be_bytes(), text.as_bytes()].concat()
    };
    (name.to_owned(), requests.iter().flat_map(request).collect())
}
