//! Whatever a peer sends, a connection neither panics nor leaks a session.

use proptest::prelude::*;

use super::*;

/// A header that looks almost right.
fn header() -> impl Strategy<Value = (Bhs, Vec<u8>)> {
    let operation = prop_oneof![
        6 => Just(opcode::COMMAND),
        4 => Just(opcode::DATA_OUT),
        1 => Just(opcode::NOP_OUT),
        1 => Just(opcode::TEXT_REQUEST),
        1 => Just(opcode::TASK_REQUEST),
        1 => Just(opcode::LOGOUT_REQUEST),
        1 => Just(opcode::LOGIN_REQUEST),
        1 => any::<u8>(),
    ];
    let data = prop::collection::vec(any::<u8>(), 0..600);
    let fields = (
        any::<bool>(),
        any::<u8>(),
        0u32..4,
        0u32..6,
        any::<[u8; 16]>(),
    );
    (operation, fields, data).prop_map(|(operation, fields, data)| {
        let (immediate, flags, itt, number, cdb) = fields;
        let mut command = command(itt, FIRST + number, cdb, number * 700);
        command.opcode = operation | if immediate { IMMEDIATE } else { 0 };
        command.flags = flags;
        command.data_len = Len24::new(data.len());
        // Likely opcodes of block commands, else the noise stays outside.
        command.cdb[0] = [0x28, 0x2a, 0x00, 0x12, 0x93, 0x42, 0x8a, 0xa0][cdb[0] as usize % 8];
        command.cdb[2..8].fill(0);
        (command.bhs(), data)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bytes_before_the_login(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut table = Table::new();
        let _ = table.receive(&noise);
        let _ = table.feed(Input::Disconnected);
        prop_assert!(table.connection.is_closed());
        prop_assert!(table.registry.sessions().is_empty());
    }

    #[test]
    fn bytes_in_the_login(flags: u8, text in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut table = Table::new();
        let _ = table.send(&login_request(flags, text.len()), &text);
        let _ = table.feed(Input::Disconnected);
        prop_assert!(table.registry.sessions().is_empty());
    }

    #[test]
    fn pdus_that_are_almost_right(pdus in prop::collection::vec(header(), 1..40)) {
        let mut table = Table::logged_in_with("InitialR2T=No\0");
        for (bhs, data) in pdus {
            let _ = table.send(&bhs, &data);
        }
        let _ = table.feed(Input::Disconnected);
        prop_assert!(table.registry.sessions().is_empty());
    }
}
