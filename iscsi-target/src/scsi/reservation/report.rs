//! What PERSISTENT RESERVE IN tells (SPC-4 §6.15).

use super::parse::InAction;
use super::{Key, Kind, Reservations, transport_id};

/// REPORT CAPABILITIES: CRH, SIP_C, ATP_C, PTPL_C; TMV, ALLOW COMMANDS 000b, PTPL_A: a state
/// always survives.
const CAPABILITIES: [u8; 2] = [0x1d, 0x81];

impl Reservations {
    /// The answer to `action`.
    pub(crate) fn tell(&self, action: InAction) -> Vec<u8> {
        let body = match action {
            InAction::ReportCapabilities => return capabilities(),
            InAction::ReadKeys => {
                let keys = self.registered.values();
                keys.flat_map(|key| key.0.to_be_bytes()).collect()
            }
            InAction::ReadReservation => self.reservation(),
            InAction::ReadFullStatus => self.full_status(),
        };
        let len = u32::try_from(body.len()).expect("registrations are bounded");
        let mut data = self.generation.to_be_bytes().to_vec();
        data.extend(len.to_be_bytes());
        data.extend(body);
        data
    }

    /// SPC-4 table 155.
    fn reservation(&self) -> Vec<u8> {
        let Some(held) = &self.held else {
            return Vec::new();
        };
        // With all registrants holding it there is no key to show (SPC-4 §6.15.3.2).
        let key = held
            .holder
            .as_ref()
            .map_or(Key::NONE, |holder| self.registered[holder]);
        let mut data = key.0.to_be_bytes().to_vec();
        data.resize(13, 0);
        data.push(held.kind as u8);
        data.resize(16, 0);
        data
    }

    /// SPC-4 table 161: a descriptor for each registration.
    fn full_status(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for (who, key) in &self.registered {
            let id = transport_id::to_bytes(&who.port);
            data.extend(key.0.to_be_bytes());
            data.extend([0; 4]);
            let held = self.held.as_ref().filter(|_| self.is_holder(who));
            data.extend(held.map_or([0, 0], |held| [HOLDER, held.kind as u8]));
            data.extend([0; 4]);
            data.extend(who.target_port.to_be_bytes());
            let len = u32::try_from(id.len()).expect("a name is short");
            data.extend(len.to_be_bytes());
            data.extend(id);
        }
        data
    }
}

/// SPC-4 table 157.
fn capabilities() -> Vec<u8> {
    let mut data = vec![0, 8, CAPABILITIES[0], CAPABILITIES[1]];
    // The mask has the bit of code 8 in its second byte, the others by their number in the first.
    let mask = Kind::ALL.iter().fold(0_u16, |mask, kind| {
        let code = *kind as u8;
        let bit = if code == 8 { 0 } else { 8 + code };
        mask | 1 << bit
    });
    data.extend(mask.to_be_bytes());
    data.resize(8, 0);
    data
}

/// R_HOLDER.
const HOLDER: u8 = 0x01;
