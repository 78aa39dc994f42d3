//! Both cores against each other, and against who should not get in.

use uuid::Uuid;

use replication::shell::Fingerprint;

use super::super::request::{Failure, Joining};
use super::*;

const NOW: u64 = 5_000_000_000;

fn code() -> Code {
    Code::of_bits(0x0fed_cba9_8765_4321)
}

fn pair() -> Pair {
    Pair {
        group: Uuid::from_u128(9),
        key: [3; 32],
    }
}

fn offer() -> Offer {
    let terms = Terms {
        node: "san1".to_owned(),
        peer: "san2".to_owned(),
        encryption: Encryption::On,
        pair: pair(),
    };
    Offer::new(NOW, terms)
}

fn channel() -> Channel {
    Channel {
        binding: [1; 32],
        creator: Fingerprint([2; 32]),
        joiner: Fingerprint([3; 32]),
    }
}

fn request() -> Request {
    Request::Box {
        node: "san2".to_owned(),
        peer: "san1".to_owned(),
        encryption: Encryption::On,
        member_of: None,
    }
}

/// One whole conversation, each side with its own view of the channel.
fn talk(
    offer: &mut Offer,
    now_ns: u64,
    typed: &Code,
    views: [Channel; 2],
    request: Request,
) -> Result<(Pair, String), Failure> {
    let (joining, hello) = Joining::new(Half::joiner(typed), request);
    let greeted = offer.greet(now_ns, &views[0], &hello, Half::creator(&code()));
    let (attempt, welcome) = greeted?;
    let (proven, proof) = joining.welcomed(&views[1], welcome)?;
    let answer = match offer.judge(now_ns, &attempt, &proof) {
        Ok(admitted) => admitted.answer,
        Err(why) => FromCreator::Denied { why },
    };
    proven.answered(answer)
}

fn try_code(offer: &mut Offer, typed: &Code) -> Result<(Pair, String), Failure> {
    talk(offer, NOW, typed, [channel(); 2], request())
}

#[test]
fn who_knows_the_code_becomes_a_member_and_nobody_after_it() {
    let mut offer = offer();
    let (got, node) = try_code(&mut offer, &code()).expect("the right code");
    assert!(got == pair() && node == "san1");
    assert!(offer.is_used_up());
    assert_eq!(try_code(&mut offer, &code()), Err(Denied::UsedUp.into()));
}

#[test]
fn a_witness_joins_the_same_way() {
    let views = [channel(); 2];
    let got = talk(&mut offer(), NOW, &code(), views, Request::Witness {});
    assert!(got.is_ok_and(|(got, _)| got == pair()));
}

#[test]
fn three_wrong_codes_end_an_offer_also_over_connections_greeted_before() {
    let mut offer = offer();
    let wrong = Code::of_bits(0x0fed_cba9_8765_4320);
    let greet = |offer: &Offer| {
        let (joining, hello) = Joining::new(Half::joiner(&wrong), request());
        let greeted = offer.greet(NOW, &channel(), &hello, Half::creator(&code()));
        let (attempt, welcome) = greeted.unwrap_or_else(|why| panic!("{why}"));
        let welcomed = joining.welcomed(&channel(), welcome);
        let (_, proof) = welcomed.unwrap_or_else(|why| panic!("{why}"));
        (attempt, proof)
    };
    let early: Vec<_> = (0..5).map(|_| greet(&offer)).collect();
    let answers = early.iter().map(|(attempt, proof)| {
        let judged = offer.judge(NOW, attempt, proof);
        judged.err().expect("a wrong code lets nobody in")
    });
    let left = |tries_left| Denied::WrongCode { tries_left };
    let wanted = [left(2), left(1), left(0), Denied::UsedUp, Denied::UsedUp];
    assert_eq!(answers.collect::<Vec<_>>(), wanted);
    assert!(offer.is_used_up());
    assert_eq!(try_code(&mut offer, &code()), Err(Denied::UsedUp.into()));
}

#[test]
fn a_code_is_good_for_ten_minutes() {
    let end = NOW + 600 * 1_000_000_000;
    let at = |now_ns| talk(&mut offer(), now_ns, &code(), [channel(); 2], request());
    assert!(at(end - 1).is_ok());
    assert_eq!(at(end), Err(Denied::Expired.into()));
    // the proof of who was greeted in time comes too late as well
    let mut offer = offer();
    let (joining, hello) = Joining::new(Half::joiner(&code()), request());
    let greeted = offer.greet(end - 1, &channel(), &hello, Half::creator(&code()));
    let (attempt, welcome) = greeted.unwrap_or_else(|why| panic!("{why}"));
    let welcomed = joining.welcomed(&channel(), welcome);
    let (_, proof) = welcomed.unwrap_or_else(|why| panic!("{why}"));
    let late = offer.judge(end, &attempt, &proof).err();
    assert_eq!(late, Some(Denied::Expired));
    assert!(!offer.is_used_up());
}

#[test]
fn somebody_in_the_middle_with_a_certificate_of_his_own_is_noticed() {
    let own = Fingerprint([9; 32]);
    let changes: [fn(&mut Channel, Fingerprint); 3] = [
        |seen, own| seen.creator = own,
        |seen, own| seen.joiner = own,
        |seen, own| seen.binding = own.0,
    ];
    for change in changes {
        let mut offer = offer();
        let mut seen = channel();
        change(&mut seen, own);
        // he hands every message on as it is
        let got = talk(&mut offer, NOW, &code(), [channel(), seen], request());
        let tries_left = TRIES - 1;
        assert_eq!(got, Err(Denied::WrongCode { tries_left }.into()));
    }
}

#[test]
fn a_creator_that_does_not_know_the_code_is_not_believed() {
    let (joining, _) = Joining::new(Half::joiner(&code()), request());
    let half = Half::creator(&Code::of_bits(1));
    let pake = hex::shown(&half.message);
    let welcomed = joining.welcomed(&channel(), FromCreator::Welcome { pake });
    let (proven, _) = welcomed.unwrap_or_else(|why| panic!("{why}"));
    let answer = FromCreator::Accepted {
        mac: hex::shown(&[0; 32]),
        group: Uuid::from_u128(1),
        key: hex::shown(&[0; 32]),
        node: "san1".to_owned(),
    };
    assert_eq!(proven.answered(answer), Err(Failure::Impostor));
}

#[test]
fn a_proof_of_another_conversation_is_worth_nothing() {
    let mut offer = offer();
    let talk = || {
        let (joining, hello) = Joining::new(Half::joiner(&code()), request());
        let greeted = offer.greet(NOW, &channel(), &hello, Half::creator(&code()));
        let (attempt, welcome) = greeted.unwrap_or_else(|why| panic!("{why}"));
        let welcomed = joining.welcomed(&channel(), welcome);
        let (_, proof) = welcomed.unwrap_or_else(|why| panic!("{why}"));
        (attempt, proof)
    };
    let (first, second) = (talk(), talk());
    let replayed = offer.judge(NOW, &second.0, &first.1).err();
    assert_eq!(replayed, Some(Denied::WrongCode { tries_left: 2 }));
    assert!(offer.judge(NOW, &second.0, &second.1).is_ok());
}

#[test]
fn what_does_not_fit_is_said_and_costs_no_try() {
    let changed = |change: fn(&mut String, &mut Encryption, &mut Option<Uuid>)| {
        let mut request = request();
        if let Request::Box {
            node,
            encryption,
            member_of,
            ..
        } = &mut request
        {
            change(node, encryption, member_of);
        }
        request
    };
    let names = Denied::Names {
        node: "san1".to_owned(),
        peer: "san2".to_owned(),
    };
    let cases = [
        (changed(|node, _, _| *node = "san3".to_owned()), names),
        (
            changed(|_, it, _| *it = Encryption::Off),
            Denied::Encryption,
        ),
        (
            changed(|_, _, member_of| *member_of = Some(Uuid::from_u128(8))),
            Denied::OtherPair,
        ),
    ];
    let mut offer = offer();
    for (request, why) in cases {
        let got = talk(&mut offer, NOW, &code(), [channel(); 2], request);
        assert_eq!(got, Err(why.into()));
    }
    let again = changed(|_, _, member_of| *member_of = Some(pair().group));
    let got = talk(&mut offer, NOW, &code(), [channel(); 2], again);
    assert!(got.is_ok(), "a member of this very pair may join again");
}

#[test]
fn messages_out_of_place_or_of_another_version_get_no_further() {
    let mut offer = offer();
    let hello = |version, pake: &str| FromJoiner::Hello {
        version,
        pake: pake.to_owned(),
    };
    let good = hex::shown(&Half::joiner(&code()).message);
    let reflected = Half::creator(&code());
    let same = hex::shown(&reflected.message);
    let cases = [
        (
            FromJoiner::Joined {},
            Half::creator(&code()),
            Denied::Garbled,
        ),
        (hello(1, ""), Half::creator(&code()), Denied::Garbled),
        (hello(1, "zz"), Half::creator(&code()), Denied::Garbled),
        (hello(1, &same), reflected, Denied::Garbled),
        (
            hello(2, &good),
            Half::creator(&code()),
            Denied::Version { version: 1 },
        ),
    ];
    for (said, half, why) in cases {
        let greeted = offer.greet(NOW, &channel(), &said, half);
        assert_eq!(greeted.err(), Some(why));
    }
    let greeted = offer.greet(NOW, &channel(), &hello(1, &good), Half::creator(&code()));
    let (attempt, _) = greeted.unwrap_or_else(|why| panic!("{why}"));
    let judged = offer.judge(NOW, &attempt, &FromJoiner::Joined {});
    assert_eq!(judged.err(), Some(Denied::Garbled));
    assert!(!offer.is_used_up());
}
