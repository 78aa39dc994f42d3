//! Which tests failed and what they said, out of all that a test harness printed. Pure.

/// Lines of one panic that are shown; the rest is in the log.
const PANIC_LINES: usize = 12;
/// Characters of one line that are shown.
const LINE_CHARS: usize = 300;
/// Failed tests of which more than nothing is shown.
const TESTS: usize = 20;

/// A line for each failed test with the panics of that test below it, in the order in which the
/// harness of Rust printed them. Empty if no test failed.
pub fn failures(output: &str) -> Vec<String> {
    let mut shown = Vec::new();
    for name in failed(output).into_iter().take(TESTS) {
        shown.push(format!("failed: {name}"));
        let section = format!("---- {name} stdout ----");
        let mut sections = output.lines().skip_while(|line| *line != section).skip(1);
        shown.extend(panics(&mut sections));
    }
    shown
}

/// Names of failed tests, each once, and of a test in which the whole harness ended.
fn failed(output: &str) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for line in output.lines() {
        let reported = between(line, "---- ", " stdout ----");
        if let Some(name) = reported.or_else(|| between(line, "test ", " ... FAILED"))
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    let last = output.lines().rev().find(|line| line.starts_with("test "));
    let last = last.and_then(|line| line.strip_prefix("test ")?.split_once(" ... "));
    let is_result = |word: &str| {
        ["ok", "FAILED", "ignored"]
            .iter()
            .any(|r| word.starts_with(r))
    };
    names.extend(
        last.filter(|(_, word)| !is_result(word))
            .map(|(name, _)| name),
    );
    names
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix(end)
}

/// The panics of one test's section: where, and what was asserted, without traces and logs.
fn panics<'a>(section: &mut impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut shown = Vec::new();
    let mut left = 0;
    for line in section.take_while(|line| !ends_section(line)) {
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            left = PANIC_LINES;
        } else if AFTER_PANIC.iter().any(|start| line.starts_with(start)) {
            left = 0;
        }
        if left > 0 {
            left -= 1;
            if !line.is_empty() {
                shown.push(format!("  {}", cut(line)));
            }
        }
    }
    shown
}

/// What follows the message of a panic: a trace, the hint how to get one, logs of the lab.
const AFTER_PANIC: [&str; 3] = ["note: ", "stack backtrace:", "--- "];

fn ends_section(line: &str) -> bool {
    line == "failures:" || line.starts_with("---- ") || line.starts_with("test result: ")
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARS) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test power::first ... FAILED
test power::second ... ok
test third ... FAILED

failures:

---- power::first stdout ----
lab in /tmp/x

thread 'power::first' (4711) panicked at tests/rows/power.rs:68:5:
assertion `left == right` failed: law D5

  left: Some(1)
 right: Some(2)
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
--- san1: Some(\"{}\")
--- /tmp/x/san1/log (last of 90 lines)
12:00:00 a line of a log

---- third stdout ----

thread 'third' (4712) panicked at src/lib.rs:1:1:
too bad
stack backtrace:
   0: __rustc::rust_begin_unwind

failures:
    power::first
    third

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s
";

    #[test]
    fn each_failed_test_is_shown_with_what_it_asserted() {
        let shown = [
            "failed: power::first",
            "  thread 'power::first' (4711) panicked at tests/rows/power.rs:68:5:",
            "  assertion `left == right` failed: law D5",
            "    left: Some(1)",
            "   right: Some(2)",
            "failed: third",
            "  thread 'third' (4712) panicked at src/lib.rs:1:1:",
            "  too bad",
        ];
        assert_eq!(failures(OUTPUT), shown);
    }

    #[test]
    fn nothing_is_shown_if_no_test_failed() {
        assert!(failures("test a ... ok\ntest result: ok. 1 passed; 0 failed;").is_empty());
        assert!(failures("error: could not compile").is_empty());
    }

    #[test]
    fn a_test_that_took_the_harness_with_it_is_named() {
        let output = "running 2 tests\ntest a ... ok\ntest b ... error: test failed";
        assert_eq!(failures(output), ["failed: b"]);
    }

    #[test]
    fn a_long_panic_is_cut() {
        let line = "x".repeat(LINE_CHARS + 1);
        let long = vec![line.as_str(); 2 * PANIC_LINES].join("\n");
        let output = format!("---- a stdout ----\nthread 'a' (1) panicked at b.rs:1:1:\n{long}");
        let shown = failures(&output);
        assert_eq!(shown.len(), 1 + PANIC_LINES);
        assert!(shown[2].ends_with("x ..."));
    }
}
