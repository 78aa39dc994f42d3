//! What carries a session, and somebody in the middle of it.

use replication::engine::{Event, Input};
use replication::types::SessionId;
use replication::wire::hello::Binding;

use crate::world::World;

impl World {
    /// A new channel as who dialled and who listened see it.
    pub(crate) fn channel(&self, dialled: SessionId, accepted: SessionId) -> [Input; 2] {
        let binding = Binding([dialled.0.to_le_bytes()[0]; 32]);
        let other = Binding([!binding.0[0]; 32]);
        [
            Input::Connected {
                session: dialled,
                binding,
            },
            Input::Accepted {
                session: accepted,
                binding: if self.between { other } else { binding },
            },
        ]
    }
}

#[test]
fn d4_a_proof_handed_on_from_another_channel_is_not_believed() {
    let mut world = World::founded(28, false);
    world.between = true;
    world.start(1, true);
    world.run_ms(500);
    assert_eq!(world.boss.readmissions, 0);
    assert!(world.boxes[1].disks.is_empty(), "nothing was told");
    let refused = |event: &Event| matches!(event, Event::Alarm(text) if text.contains("key"));
    assert!(world.saw(0, refused));
    world.between = false;
    world.until("both in sync", |w| w.boss.readmissions == 1);
}
