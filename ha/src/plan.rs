//! Ordered start and stop of the primary's resources.
//!
//! ```text
//!   Down --(up)--> Starting(first) --Started--> Starting(next) --Started--> Up
//!    ^                |  failed: stop in reverse, wait 1, 2, 4 .. 30 s          |
//!    +---(all Stopped)-- Stopping <--(down, also in the middle of a start)------+
//! ```

use std::collections::VecDeque;

use crate::resource::Resource;
use crate::types::Time;

/// What the plan wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Start(Resource),
    Stop(Resource),
    Failed {
        resource: Resource,
        reason: String,
        retry_ms: u64,
    },
}

/// Whether the resources shall be up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Up,
    Down,
}

/// Invariants: resources are started in [`Resource::START_ORDER`], one at a time, and only while
/// none is being stopped; every resource that was asked to start is asked to stop before it is
/// asked to start again.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Asked to start, in order; the last may still be starting.
    touched: Vec<Resource>,
    starting: bool,
    stopping: Vec<Resource>,
    failures: u32,
    retry_at: Option<Time>,
    steps: VecDeque<Step>,
}

const RETRY_FIRST_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 30_000;

impl Plan {
    /// Moves towards the wish.
    pub(crate) fn advance(&mut self, now: Time, wish: Wish) {
        match wish {
            Wish::Down => {
                self.failures = 0;
                self.retry_at = None;
                self.stop_all();
            }
            Wish::Up => self.start_next(now),
        }
        assert!(
            !self.starting || self.stopping.is_empty(),
            "started while stopping"
        );
    }

    /// A start ended. One that was overtaken by a stop is not news.
    pub(crate) fn started(&mut self, now: Time, resource: Resource, result: Result<(), String>) {
        if !self.starting || self.touched.last() != Some(&resource) {
            return;
        }
        self.starting = false;
        match result {
            Ok(()) if self.up() => self.failures = 0,
            Ok(()) => {}
            Err(reason) => {
                let retry_ms = (RETRY_FIRST_MS << self.failures.min(5)).min(RETRY_MAX_MS);
                self.failures += 1;
                self.retry_at = Some(now.after_ms(retry_ms));
                self.steps.push_back(Step::Failed {
                    resource,
                    reason,
                    retry_ms,
                });
                self.stop_all();
            }
        }
    }

    /// A stop ended.
    pub(crate) fn stopped(&mut self, resource: Resource) {
        self.stopping.retain(|stopping| *stopping != resource);
    }

    pub(crate) fn next_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Whether every resource is started.
    pub(crate) fn up(&self) -> bool {
        !self.starting && self.touched.len() == Resource::START_ORDER.len()
    }

    pub(crate) const fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }

    fn start_next(&mut self, now: Time) {
        if self.starting || !self.stopping.is_empty() || self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.retry_at = None;
        if let Some(resource) = Resource::START_ORDER.get(self.touched.len()) {
            self.touched.push(*resource);
            self.starting = true;
            self.steps.push_back(Step::Start(*resource));
        }
    }

    fn stop_all(&mut self) {
        self.starting = false;
        while let Some(resource) = self.touched.pop() {
            self.stopping.push(resource);
            self.steps.push_back(Step::Stop(resource));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(plan: &mut Plan) -> Vec<Step> {
        std::iter::from_fn(|| plan.next_step()).collect()
    }

    fn up(plan: &mut Plan) {
        for resource in Resource::START_ORDER {
            plan.advance(Time(0), Wish::Up);
            assert_eq!(steps(plan), [Step::Start(resource)]);
            plan.started(Time(0), resource, Ok(()));
        }
        assert!(plan.up());
    }

    #[test]
    fn starts_in_order_and_stops_in_reverse() {
        let mut plan = Plan::default();
        up(&mut plan);
        plan.advance(Time(0), Wish::Down);
        let reverse: Vec<Step> = Resource::START_ORDER
            .into_iter()
            .rev()
            .map(Step::Stop)
            .collect();
        assert_eq!(steps(&mut plan), reverse);
        plan.advance(Time(0), Wish::Up);
        assert_eq!(steps(&mut plan), [], "waits until everything is stopped");
        for resource in Resource::START_ORDER {
            plan.stopped(resource);
        }
        up(&mut plan);
    }

    #[test]
    fn a_failed_start_rolls_back_and_is_tried_again_later() {
        let mut plan = Plan::default();
        plan.advance(Time(0), Wish::Up);
        plan.started(Time(0), Resource::Configuration, Ok(()));
        plan.advance(Time(0), Wish::Up);
        let _ = steps(&mut plan);
        for expected in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            plan.started(Time(0), Resource::Target, Err(String::from("no")));
            let failed = steps(&mut plan);
            assert!(
                matches!(failed[0], Step::Failed { retry_ms, .. } if retry_ms == expected),
                "{failed:?}"
            );
            assert_eq!(
                failed[1..],
                [
                    Step::Stop(Resource::Target),
                    Step::Stop(Resource::Configuration)
                ]
            );
            plan.stopped(Resource::Target);
            plan.stopped(Resource::Configuration);
            plan.advance(Time(0).after_ms(expected - 1), Wish::Up);
            assert_eq!(steps(&mut plan), []);
            plan.retry_at = Some(Time(0));
            plan.advance(Time(0), Wish::Up);
            plan.started(Time(0), Resource::Configuration, Ok(()));
            plan.advance(Time(0), Wish::Up);
            let _ = steps(&mut plan);
        }
    }

    #[test]
    fn a_start_that_ends_after_the_stop_is_not_news() {
        let mut plan = Plan::default();
        plan.advance(Time(0), Wish::Up);
        plan.advance(Time(0), Wish::Down);
        let _ = steps(&mut plan);
        plan.started(Time(0), Resource::Configuration, Ok(()));
        assert!(!plan.up());
        plan.stopped(Resource::Configuration);
        up(&mut plan);
    }
}
