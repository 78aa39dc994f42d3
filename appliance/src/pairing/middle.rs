//! Somebody between the two who speaks TLS to each of them, on real sockets.

use std::net::{Ipv4Addr, SocketAddr};

use replication::shell::Identity;
use replication::shell::tls::{Trust, acceptor, connector, peer_name};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use super::code::Code;
use super::create::{Desk, News};
use super::message::Request;
use super::{create, join};
use crate::membership::{self, Member, Pair};

fn identity() -> Identity {
    let (certificate, key) = membership::certificate().expect("made");
    Identity::new(certificate, key)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a free port");
    let place = listener.local_addr().expect("it is bound");
    (listener, place)
}

/// A creator that waits; the code is 77.
async fn creator() -> (SocketAddr, mpsc::Receiver<News>) {
    let member = Member::new(Pair::found().expect("random"), None).expect("made");
    let (news_in, news) = mpsc::channel(8);
    let (listener, place) = listener().await;
    let desk = Desk::of_member(member, Code::of_bits(77), news_in);
    spawn_local(create::accept(desk.into(), listener));
    (place, news)
}

/// Hands everything on from one TLS channel to another, both with a certificate of his own.
async fn between(target: SocketAddr) -> SocketAddr {
    let (listener, place) = listener().await;
    spawn_local(async move {
        let own = identity();
        let (stream, _) = listener.accept().await.expect("somebody comes");
        let acceptor = acceptor(&own, Trust::Anybody).expect("a good pair");
        let mut near = acceptor.accept(stream).await.expect("a handshake");
        let stream = TcpStream::connect(target).await.expect("it listens");
        let connector = connector(&own, Trust::Anybody).expect("a good pair");
        let mut far = connector
            .connect(peer_name(), stream)
            .await
            .expect("a handshake");
        drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
    });
    place
}

async fn try_to_join(place: SocketAddr, bits: u128) -> Result<(), String> {
    let stream = TcpStream::connect(place).await.expect("it listens");
    let code = Code::of_bits(bits);
    let talked = join::talk(stream, &code, &identity(), Request::Witness {}).await;
    let mut agreed = talked?;
    agreed.tell_joined().await;
    Ok(())
}

#[tokio::test]
async fn who_joins_through_somebody_in_the_middle_is_warned_and_not_let_in() {
    let test = async {
        let (place, mut news) = creator().await;
        let said = try_to_join(between(place).await, 77).await;
        let said = said.expect_err("the channels differ");
        assert!(said.contains("somebody is between"), "{said}");
        assert!(matches!(news.recv().await, Some(News::Wrong(_, 2))));
        assert_eq!(try_to_join(place, 77).await, Ok(()));
        assert!(matches!(news.recv().await, Some(News::Joined(_))));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn strangers_end_no_admission_that_is_under_way() {
    let test = async {
        let (place, mut news) = creator().await;
        let stream = TcpStream::connect(place).await.expect("it listens");
        let code = Code::of_bits(77);
        let talked = join::talk(stream, &code, &identity(), Request::Witness {}).await;
        let mut agreed = talked.expect("it is let in");
        let mut strangers = Vec::new();
        for _ in 0..40 {
            strangers.push(TcpStream::connect(place).await.expect("it listens"));
            tokio::task::yield_now().await;
        }
        // The last of them is being served, so the others were.
        let late = try_to_join(place, 77).await;
        late.expect_err("the code is used up");
        agreed.tell_joined().await;
        let mut joined = false;
        while let Some(item) = news.recv().await {
            joined |= matches!(item, News::Joined(_));
            assert!(!matches!(item, News::Unheard(_)), "it was forgotten");
            if joined {
                break;
            }
        }
        assert!(joined);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn silence_and_garbage_keep_nobody_out() {
    use tokio::io::AsyncWriteExt as _;
    let test = async {
        let (place, mut news) = creator().await;
        let mut strangers = Vec::new();
        for round in 0..40 {
            let mut stranger = TcpStream::connect(place).await.expect("it listens");
            if round % 2 == 0 {
                stranger.write_all(&[22; 700]).await.expect("it is open");
            }
            strangers.push(stranger);
        }
        assert_eq!(try_to_join(place, 77).await, Ok(()));
        assert!(matches!(news.recv().await, Some(News::Joined(_))));
    };
    LocalSet::new().run_until(test).await;
}
