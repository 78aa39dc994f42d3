//! Programs of operators: good ones, and those that hang, lie, fail and talk too much.

use std::collections::BTreeMap;
use std::time::Duration;

use ha::fence::{Answer, Outcome, Power, Question};
use ha::shell::fence::{Agent, Exec, Ssh};
use tokio::time::Instant;

use super::{Folder, SECRET, ask, desk, secret, why};

/// By the convention of fence-agents; the power is a file beside it.
const GOOD: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
while read -r line; do
    echo "$line" >> input
    case $line in action=*) action=${line#action=} ;; esac
done
case $action in
off) echo off > power; echo "Success: Powered OFF" ;;
status)
    if [ "$(cat power)" = off ]; then echo "Status: OFF"; exit 2; fi
    echo "Status: ON"
    ;;
*) exit 1 ;;
esac
"#;

fn exec(folder: &Folder, name: &str, text: &str) -> Agent {
    Agent::Exec(Exec {
        program: folder.program(name, text),
        options: BTreeMap::from([("ip".to_owned(), "10.0.0.5".to_owned())]),
        secrets: BTreeMap::from([("password".to_owned(), secret())]),
    })
}

#[tokio::test]
async fn r11_a_program_that_follows_the_convention_turns_a_box_off() {
    let folder = Folder::new("exec-good");
    let agent = exec(&folder, "good", GOOD);
    folder.write("power", "on\n");
    let reply = ask(&agent, Question::Power).await;
    assert_eq!(reply.answer, Answer::Power(Power::On));
    assert!(
        reply.asked.ends_with("with action=status ip=10.0.0.5"),
        "{reply:?}"
    );
    assert_eq!(reply.answered, "exit code 0: Status: ON");
    let input = format!("action=status\nip=10.0.0.5\npassword={SECRET}\n");
    assert_eq!(folder.read("input"), input);
    let (handle, _events) = desk(&[("script", 1, &agent)]).await;
    assert_eq!(handle.fence().await, Outcome::ConfirmedOff);
    assert_eq!(folder.read("power"), "off\n");
}

#[tokio::test]
async fn r11_success_of_a_program_is_not_off() {
    let folder = Folder::new("exec-liar");
    let liar = "#!/bin/sh\necho 'Success: Powered OFF'\necho 'Status: ON'\n";
    let liar = exec(&folder, "liar", liar);
    let (handle, mut events) = desk(&[("liar", 1, &liar)]).await;
    assert_eq!(handle.fence().await, Outcome::Failed);
    let mut told = String::new();
    while let Ok(event) = events.try_recv() {
        told.push_str(&event.to_string());
    }
    assert!(
        told.contains("liar: it says that the power is still on"),
        "{told}"
    );
}

#[tokio::test]
async fn what_is_neither_on_nor_off_is_a_failure() {
    let folder = Folder::new("exec-odd");
    let odd = [
        // What a shell says of a program that it does not understand.
        ("syntax", "#!/bin/sh\nif then\n", "exit code 2"),
        ("bare", "#!/bin/sh\nexit 2\n", "do not agree"),
        ("torn", "#!/bin/sh\necho 'Status: OFF'\n", "do not agree"),
        (
            "both",
            "#!/bin/sh\necho 'Status: ON'\necho 'Status: OFF'\nexit 2\n",
            "do not agree",
        ),
        (
            "fails",
            "#!/bin/sh\necho 'no route' >&2\nexit 1\n",
            "exit code 1: no route",
        ),
        ("killed", "#!/bin/sh\nkill -9 $$\n", "ended by a signal"),
        (
            "quiet",
            "#!/bin/sh\nexit 7\n",
            "exit code 7: it said nothing",
        ),
    ];
    for (name, text, words) in odd {
        let reply = ask(&exec(&folder, name, text), Question::Power).await;
        assert!(why(&reply).contains(words), "{name}: {reply:?}");
    }
    let mut missing = exec(&folder, "gone", "#!/bin/sh\n");
    std::fs::remove_file(folder.0.join("gone")).expect("it was there");
    let reply = ask(&missing, Question::Off).await;
    assert!(why(&reply).contains("cannot be run"), "{reply:?}");
    if let Agent::Exec(exec) = &mut missing {
        exec.program = folder.write("plain", "no program\n");
    }
    let reply = ask(&missing, Question::Off).await;
    assert!(why(&reply).contains("cannot be run"), "{reply:?}");
}

#[tokio::test]
async fn a_program_that_hangs_dies_with_its_children() {
    let folder = Folder::new("exec-hangs");
    let text = "#!/bin/sh\ncd \"${0%/*}\"\n(sleep 2; echo late > late) &\nsleep 600\n";
    let agent = exec(&folder, "hangs", text);
    let begun = Instant::now();
    let reply = agent.ask(Question::Off, Duration::from_millis(500)).await;
    assert!(begun.elapsed() < Duration::from_millis(1_500));
    assert!(why(&reply).contains("no answer"), "{reply:?}");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(folder.read("late"), "", "its child lives on");
    // One that left is waited for as long, if a child of it keeps the output open.
    let text = "#!/bin/sh\nsleep 600 &\necho 'Status: OFF'\nexit 2\n";
    let agent = exec(&folder, "leaves", text);
    let reply = agent.ask(Question::Power, Duration::from_millis(500)).await;
    assert!(why(&reply).contains("no answer"), "{reply:?}");
}

#[tokio::test]
async fn no_secret_comes_back_however_much_is_said() {
    let folder = Folder::new("exec-talks");
    let text = "#!/bin/sh\ncat\ncat >&2\nexit 1\n";
    let reply = ask(&exec(&folder, "echoes", text), Question::Power).await;
    assert!(why(&reply).contains("password=***"), "{reply:?}");
    let text = "#!/bin/sh\nsecret=$(sed -n s/password=//p)\n\
                yes \"$secret\" | head -c 3000000 >&2\nexit 1\n";
    let reply = ask(&exec(&folder, "floods", text), Question::Power).await;
    assert!(why(&reply).contains("***"), "{reply:?}");
    assert!(reply.answered.len() <= 400, "{}", reply.answered.len());
}

#[tokio::test]
async fn the_shell_of_a_lab_turns_off_and_takes_silence_for_off() {
    let folder = Folder::new("ssh");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let agent = Agent::Ssh(Ssh {
        address,
        user: "root".to_owned(),
        ssh: folder.program(
            "ssh",
            "#!/bin/sh\necho \"$@\" >> \"${0%/*}/words\"\nexit 255\n",
        ),
    });
    let reply = ask(&agent, Question::Off).await;
    assert_eq!(reply.answer, Answer::Accepted);
    assert!(
        folder
            .read("words")
            .ends_with("root@127.0.0.1 poweroff -f\n")
    );
    let reply = ask(&agent, Question::Power).await;
    assert_eq!(reply.answer, Answer::Power(Power::On));
    drop(listener);
    let reply = ask(&agent, Question::Power).await;
    assert_eq!(reply.answer, Answer::Power(Power::On), "its kernel answers");
}
