//! Uploads by the tus protocol while gateways die, and by two of them in turn.

use caudal_harness::Database;

use crate::mesh;
use crate::tus_wire::{Sender, eventually, noise};

const MIB: usize = 1 << 20;

fn two_gateways_serve_one_upload(database: Database) {
    let mut mesh = mesh(database, 1);
    let second = mesh.add_gateway().unwrap();
    let one = Sender::new(&mesh.gateway().unwrap(), mesh.api_key());
    let other = Sender::new(&mesh.address(&second).unwrap(), mesh.api_key());
    let batch = one.batch();
    let bytes = noise(27 * MIB + 3, 11);
    let path = one.create(bytes.len(), &[("batch", &batch), ("path", "a.bin")]);

    // In turn, with pieces that end anywhere in a part.
    let mut offset = 0;
    for (number, more) in [5, MIB, 3 * MIB + 1, 4 * MIB, 77].into_iter().enumerate() {
        let sender = [&one, &other][number % 2];
        let sent = sender.patch(&path, offset, &bytes[offset..offset + more]);
        assert_eq!(sent.status, 204, "{}", sent.words);
        offset += more;
        assert_eq!([&other, &one][number % 2].head(&path).offset(), offset);
    }

    // The first is killed in the middle of a request; its lock runs out, and the second goes on.
    let mut open = one.begin_patch(&path, offset, bytes.len(), &bytes[offset..17 * MIB]);
    eventually("a part to be kept", || {
        (other.head(&path).offset() >= 16 * MIB).then_some(())
    });
    open.send(&bytes[17 * MIB..18 * MIB]);
    assert_eq!(other.patch(&path, 16 * MIB, &bytes[16 * MIB..]).status, 423);
    mesh.kill("gateway").unwrap();
    assert_eq!(open.status(), None);
    assert_eq!(other.offset_at_rest(&path), 16 * MIB);
    other.send_rest(&path, &bytes, 6 * MIB);
    assert_eq!(other.head(&path).offset(), bytes.len());
    other.complete(&batch, 1);
    other.arrived(&batch, "a.bin", &bytes);
    mesh.verify().unwrap();
}

#[test]
fn two_gateways_serve_one_upload_in_turn_and_one_goes_on_where_the_other_was_killed_on_sqlite() {
    two_gateways_serve_one_upload(Database::Sqlite);
}

#[test]
fn two_gateways_serve_one_upload_in_turn_and_one_goes_on_where_the_other_was_killed_on_postgres() {
    two_gateways_serve_one_upload(Database::Postgres);
}

#[test]
fn a_gateway_that_slept_through_its_lock_spoils_nothing_of_what_another_went_on_with() {
    let mut mesh = mesh(Database::Sqlite, 1);
    let second = mesh.add_gateway().unwrap();
    let one = Sender::new(&mesh.gateway().unwrap(), mesh.api_key());
    let other = Sender::new(&mesh.address(&second).unwrap(), mesh.api_key());
    let batch = other.batch();
    let bytes = noise(20 * MIB, 12);
    let path = other.create(bytes.len(), &[("batch", &batch), ("path", "a.bin")]);
    // Bytes that the client will not send again.
    let wrong = noise(bytes.len(), 13);
    let mut open = one.hold(&path, bytes.len(), &wrong[..7 * MIB]);
    mesh.pause("gateway").unwrap();
    open.send(&wrong[7 * MIB..7 * MIB + 100_000]);
    other.send_rest(&path, &bytes[..9 * MIB], 9 * MIB);
    mesh.resume("gateway").unwrap();
    open.send(&wrong[7 * MIB + 100_000..10 * MIB]);
    assert_eq!(open.status(), Some(423));
    other.send_rest(&path, &bytes, bytes.len());
    other.complete(&batch, 1);
    other.arrived(&batch, "a.bin", &bytes);
    mesh.verify().unwrap();
}

#[test]
fn a_gateway_that_is_asked_to_end_keeps_what_it_has_and_the_next_goes_on() {
    let mut mesh = mesh(Database::Sqlite, 1);
    let second = mesh.add_gateway().unwrap();
    let one = Sender::new(&mesh.gateway().unwrap(), mesh.api_key());
    let other = Sender::new(&mesh.address(&second).unwrap(), mesh.api_key());
    let batch = other.batch();
    let bytes = noise(3 * MIB, 14);
    let path = other.create(bytes.len(), &[("batch", &batch), ("path", "a.bin")]);
    let open = one.hold(&path, bytes.len(), &bytes[..2 * MIB]);
    mesh.terminate("gateway").unwrap();
    assert_eq!(open.status(), Some(503));
    let kept = other.head(&path).offset();
    assert!(kept > 0 && kept <= 2 * MIB, "{kept}");
    other.send_rest(&path, &bytes, bytes.len());
    other.complete(&batch, 1);
    other.arrived(&batch, "a.bin", &bytes);
    mesh.verify().unwrap();
}
