//! The tus protocol, section by section, against the whole system.

use std::time::Duration;

use caudal_harness::postgres;
use caudal_sdk::v1::{BatchState, FileState};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::landing::store;
use crate::tus_wire::{Sender, base64, eventually, metadata, noise};
use crate::{Database, Ground};

const MIB: usize = 1 << 20;
const CHUNK: &str = "application/offset+octet-stream";

fn sender(ground: &Ground) -> Sender {
    Sender::new(
        &ground.system.ready("gateway"),
        &ground.system.ready("api_key"),
    )
}

/// What the store holds of uploads that are not files yet.
fn in_pieces(ground: &Ground) -> Vec<String> {
    let listed = Runtime::new().unwrap().block_on(async {
        let store = store(ground);
        store.list("", None).await.unwrap().objects
    });
    let keys = listed.into_iter().map(|object| object.key);
    keys.filter(|key| key.contains("/tus/")).collect()
}

// "Core Protocol": OPTIONS, HEAD, PATCH; "Creation": POST.
#[test]
fn a_file_comes_in_pieces_and_each_answer_says_what_the_protocol_asks() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let asked = sender.bare("OPTIONS", "/files", &[], Vec::new());
    assert!(matches!(asked.status, 200 | 204));
    assert_eq!(asked.header("tus-version"), Some("1.0.0"));
    let extensions = "creation,creation-with-upload,creation-defer-length,termination,checksum,checksum-trailer,expiration,concatenation";
    assert_eq!(asked.header("tus-extension"), Some(extensions));
    assert_eq!(
        asked.header("tus-checksum-algorithm"),
        Some("md5,sha1,sha256")
    );
    assert!(
        asked
            .header("tus-max-size")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 1 << 38
    );

    let batch = sender.batch();
    let bytes = noise(3 * MIB, 1);
    let pairs = metadata(&[("batch", &batch), ("path", "in/a.bin"), ("note", "ñ")]);
    let made = sender.post(&[("upload-length", "3145728"), ("upload-metadata", &pairs)]);
    assert_eq!(
        (made.status, made.header("tus-resumable")),
        (201, Some("1.0.0")),
        "{}",
        made.words
    );
    assert!(made.header("upload-expires").unwrap().ends_with(" GMT"));
    let path = made.header("location").unwrap().to_owned();
    let before = sender.head(&path);
    assert_eq!((before.status, before.offset()), (200, 0));
    assert_eq!(before.header("upload-length"), Some("3145728"));
    assert_eq!(before.header("upload-metadata"), Some(pairs.as_str()));
    assert_eq!(before.header("cache-control"), Some("no-store"));
    assert_eq!(before.header("upload-defer-length"), None);
    assert_eq!(sender.files(&batch)[0].state(), FileState::Uploading);

    let first = sender.patch(&path, 0, &bytes[..MIB]);
    assert_eq!(
        (first.status, first.offset()),
        (204, MIB),
        "{}",
        first.words
    );
    assert!(first.header("upload-expires").is_some());
    let wrong = sender.patch(&path, 0, &bytes[..MIB]);
    assert_eq!(wrong.status, 409, "{}", wrong.words);
    assert_eq!(sender.head(&path).offset(), MIB);
    let last = sender.patch(&path, MIB, &bytes[MIB..]);
    assert_eq!(
        (last.status, last.offset()),
        (204, 3 * MIB),
        "{}",
        last.words
    );
    assert_eq!(sender.head(&path).offset(), 3 * MIB);
    // Nothing is left to send, and nothing more is taken.
    assert_eq!(sender.patch(&path, 3 * MIB, &[]).status, 204);
    assert_eq!(sender.patch(&path, 3 * MIB, &[1]).status, 413);
    sender.complete(&batch, 1);
    sender.arrived(&batch, "in/a.bin", &bytes);
    assert_eq!(sender.ended(&batch), BatchState::Succeeded);
    assert_eq!(in_pieces(&ground), Vec::<String>::new());
    ground.system.verify().unwrap();
}

// "Core Protocol": Tus-Resumable, Upload-Offset, X-HTTP-Method-Override; "Creation": Upload-Length, Upload-Metadata.
#[test]
fn what_is_no_request_of_the_protocol_is_refused_with_the_status_that_it_names() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let path = sender.create(10, &[("filename", "a.txt")]);
    let key = format!("Bearer {}", ground.system.ready("api_key"));
    let version = ("tus-resumable", "1.0.0");

    let old = sender.bare(
        "HEAD",
        &path,
        &[("authorization", &key), ("tus-resumable", "0.2.2")],
        Vec::new(),
    );
    assert_eq!(
        (old.status, old.header("tus-version")),
        (412, Some("1.0.0"))
    );
    let none = sender.bare("HEAD", &path, &[("authorization", &key)], Vec::new());
    assert_eq!(none.status, 412);
    for credential in ["", "Bearer caudal_x_y"] {
        let foreign = sender.bare(
            "HEAD",
            &path,
            &[("authorization", credential), version],
            Vec::new(),
        );
        assert_eq!(foreign.status, 401);
    }
    let operator = format!("Bearer {}", ground.system.ready("operator_key"));
    let foreign = sender.bare(
        "HEAD",
        &path,
        &[("authorization", &operator), version],
        Vec::new(),
    );
    assert_eq!(foreign.status, 403);

    let untyped = sender.send(
        "PATCH",
        &path,
        &[("upload-offset", "0")],
        b"0123456789".to_vec(),
    );
    assert_eq!(untyped.status, 415, "{}", untyped.words);
    for offset in ["", "-1", "x", "+1", "99999999999999999999"] {
        let wrong = [("content-type", CHUNK), ("upload-offset", offset)];
        assert_eq!(
            sender.send("PATCH", &path, &wrong, Vec::new()).status,
            400,
            "{offset}"
        );
    }
    let long = sender.patch(&path, 0, b"0123456789+");
    assert_eq!(long.status, 413, "{}", long.words);
    let overridden = [
        ("x-http-method-override", "PATCH"),
        ("content-type", CHUNK),
        ("upload-offset", "0"),
    ];
    let overridden = sender.send("POST", &path, &overridden, b"01234".to_vec());
    assert_eq!(
        (overridden.status, overridden.offset()),
        (204, 5),
        "{}",
        overridden.words
    );

    for headers in [
        &[][..],
        &[("upload-length", "-1")],
        &[("upload-length", "1"), ("upload-defer-length", "1")],
        &[("upload-defer-length", "2")],
        &[("upload-length", "1"), ("upload-metadata", "a !")],
        &[("upload-length", "1"), ("upload-metadata", "path Li4vYQ==")],
        &[("upload-length", "1"), ("upload-concat", "all")],
    ] {
        let refused = sender.post(headers);
        assert_eq!(refused.status, 400, "{headers:?}: {}", refused.words);
    }
    assert_eq!(
        sender.post(&[("upload-length", "9999999999999")]).status,
        413
    );
    let unknown = "/files/0190b5a2-0000-7000-8000-000000000001";
    assert_eq!(sender.head(unknown).status, 404);
    assert_eq!(sender.head("/files/x").status, 404);
    assert_eq!(sender.patch(unknown, 0, b"1").status, 404);
    assert_eq!(sender.send("GET", &path, &[], Vec::new()).status, 405);
}

// "Creation": a file of a batch, or of one of its own.
#[test]
fn an_upload_goes_into_the_batch_that_it_names_or_into_one_of_its_own_and_twice_the_same_file_into_none()
 {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let path = sender.create(5, &[("filename", "gauge.txt"), ("filetype", "text/plain")]);
    assert_eq!(sender.patch(&path, 0, b"level").status, 204);
    let own = sender.batches().remove(0);
    assert_eq!(own.display_name, "gauge.txt");
    sender.arrived(&own.name, "gauge.txt", b"level");
    assert_eq!(sender.ended(&own.name), BatchState::Succeeded);

    // An empty file has arrived as soon as it is there.
    let empty = sender.create(0, &[("filename", "empty.txt")]);
    assert_eq!(sender.head(&empty).offset(), 0);
    let own = sender.batches().remove(0).name;
    sender.arrived(&own, "empty.txt", b"");

    let batch = sender.batch();
    let pairs = [("batch", batch.as_str()), ("path", "a.txt")];
    let path = sender.create(5, &pairs);
    assert_eq!(sender.patch(&path, 0, b"first").status, 204);
    let pairs = metadata(&pairs);
    let again = sender.post(&[("upload-length", "5"), ("upload-metadata", &pairs)]);
    assert_eq!(again.status, 409);
    assert!(again.words.contains("are there already"), "{}", again.words);
    let other = sender.post(&[("upload-length", "6"), ("upload-metadata", &pairs)]);
    assert_eq!(other.status, 409, "{}", other.words);
    sender.complete(&batch, 1);
    let late = metadata(&[("batch", &batch), ("path", "late.txt")]);
    for length in [("upload-length", "5"), ("upload-defer-length", "1")] {
        let late = sender.post(&[length, ("upload-metadata", &late)]);
        assert_eq!(late.status, 409, "{}", late.words);
    }
    let nobodys = metadata(&[("batch", "batches/0190b5a2-0000-7000-8000-000000000001")]);
    let nobodys = sender.post(&[("upload-length", "5"), ("upload-metadata", &nobodys)]);
    assert_eq!(nobodys.status, 404, "{}", nobodys.words);
    sender.arrived(&batch, "a.txt", b"first");
    ground.system.verify().unwrap();
}

// "Creation With Upload", "Checksum".
#[test]
fn a_creation_may_carry_bytes_and_bytes_with_another_checksum_than_told_are_not_kept() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let batch = sender.batch();
    let bytes = noise(20 * MIB, 2);
    let pairs = metadata(&[("batch", &batch), ("path", "a.bin")]);
    let length = bytes.len().to_string();
    let made = [
        ("upload-length", length.as_str()),
        ("upload-metadata", &pairs),
        ("content-type", CHUNK),
    ];
    let made = sender.send("POST", "/files", &made, bytes[..MIB].to_vec());
    assert_eq!((made.status, made.offset()), (201, MIB), "{}", made.words);
    let path = made.header("location").unwrap().to_owned();

    // More than two parts, of which none counts.
    let piece = &bytes[MIB..19 * MIB];
    let sum = format!("sha256 {}", base64(&Sha256::digest(piece)));
    let mut spoilt = piece.to_vec();
    spoilt[17 * MIB] ^= 1;
    let refused = sender.patch_with(&path, MIB, &[("upload-checksum", &sum)], &spoilt);
    assert_eq!(refused.status, 460, "{}", refused.words);
    assert_eq!(sender.head(&path).offset(), MIB);
    let unknown = sender.patch_with(&path, MIB, &[("upload-checksum", "crc32 AAAA")], piece);
    assert_eq!(unknown.status, 400);
    let good = sender.patch_with(&path, MIB, &[("upload-checksum", &sum)], piece);
    assert_eq!(
        (good.status, good.offset()),
        (204, 19 * MIB),
        "{}",
        good.words
    );
    assert_eq!(
        sender.patch(&path, 19 * MIB, &bytes[19 * MIB..]).status,
        204
    );
    sender.complete(&batch, 1);
    sender.arrived(&batch, "a.bin", &bytes);

    let whole = [
        ("upload-length", "5"),
        ("content-type", CHUNK),
        ("upload-checksum", "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00="),
    ];
    let whole = sender.send("POST", "/files", &whole, b"hello".to_vec());
    assert_eq!((whole.status, whole.offset()), (201, 5), "{}", whole.words);
    ground.system.verify().unwrap();
}

// "Creation": the offset of what needs no bytes is its length.
#[test]
fn what_the_tenant_holds_already_is_a_file_without_a_byte_sent() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let batch = sender.batch();
    let bytes = noise(MIB, 4);
    let sum = hex::encode(Sha256::digest(&bytes));
    let length = bytes.len().to_string();
    let pairs = metadata(&[("batch", &batch), ("path", "first.bin"), ("sha256", &sum)]);
    let made = sender.post(&[("upload-length", &length), ("upload-metadata", &pairs)]);
    let path = made.header("location").unwrap().to_owned();
    assert_eq!(sender.patch(&path, 0, &bytes).status, 204);
    sender.complete(&batch, 1);
    sender.arrived(&batch, "first.bin", &bytes);

    let again = metadata(&[("filename", "again.bin"), ("sha256", &sum)]);
    let made = sender.post(&[("upload-length", &length), ("upload-metadata", &again)]);
    assert_eq!((made.status, made.offset()), (201, MIB), "{}", made.words);
    let path = made.header("location").unwrap().to_owned();
    assert_eq!(sender.head(&path).offset(), MIB);
    // A client that sends its bytes nevertheless is told the offset, and that it is done.
    assert_eq!(sender.patch(&path, 0, &bytes).status, 409);

    // And one that tells its length later.
    let made = sender.post(&[("upload-defer-length", "1"), ("upload-metadata", &again)]);
    assert_eq!(made.status, 201, "{}", made.words);
    let path = made.header("location").unwrap().to_owned();
    let told = sender.patch_with(&path, 0, &[("upload-length", &length)], &bytes);
    assert_eq!((told.status, told.offset()), (204, MIB), "{}", told.words);

    let batches = Runtime::new().unwrap().block_on(async {
        let gateway = ground.system.ready("gateway");
        let key = ground.system.ready("api_key");
        let client = caudal_sdk::Client::connect(&gateway, &key).await.unwrap();
        let all = caudal_sdk::v1::ListBatchesRequest::default();
        client.list_batches(all).await.unwrap().batches
    });
    assert_eq!(batches.len(), 3);
    for batch in batches {
        assert_eq!(batch.state(), BatchState::Succeeded, "{batch:?}");
        assert_eq!(batch.counts.unwrap().processed, 1, "{batch:?}");
    }
    ground.system.verify().unwrap();
}

// "Checksum": checksum-trailer.
#[test]
fn a_checksum_may_follow_its_bytes_and_without_it_or_with_another_nothing_is_kept() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let batch = sender.batch();
    let bytes = noise(9 * MIB, 12);
    let path = sender.create(bytes.len(), &[("batch", &batch), ("path", "a.bin")]);
    let other = format!("Upload-Checksum: sha1 {}\r\n", base64(&[7; 20]));
    assert_eq!(
        sender.patch_with_trailers(&path, 0, &bytes, &other),
        Some(460)
    );
    assert_eq!(sender.patch_with_trailers(&path, 0, &bytes, ""), Some(400));
    assert_eq!(sender.head(&path).offset(), 0);
    let sum = base64(&Sha256::digest(&bytes));
    let good = format!("Upload-Checksum: sha256 {sum}\r\n");
    assert_eq!(
        sender.patch_with_trailers(&path, 0, &bytes, &good),
        Some(204)
    );
    assert_eq!(sender.head(&path).offset(), bytes.len());
    sender.complete(&batch, 1);
    sender.arrived(&batch, "a.bin", &bytes);
    ground.system.verify().unwrap();
}

// "Creation": Upload-Defer-Length.
#[test]
fn the_length_may_be_told_while_the_bytes_come_and_then_stays() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let batch = sender.batch();
    let bytes = noise(17 * MIB, 3);
    let pairs = metadata(&[("batch", &batch), ("path", "live.bin")]);
    let made = sender.post(&[("upload-defer-length", "1"), ("upload-metadata", &pairs)]);
    assert_eq!(made.status, 201, "{}", made.words);
    let path = made.header("location").unwrap().to_owned();
    assert_eq!(sender.head(&path).header("upload-defer-length"), Some("1"));
    assert!(sender.files(&batch).is_empty());
    assert_eq!(sender.patch(&path, 0, &bytes[..16 * MIB]).status, 204);
    let length = bytes.len().to_string();
    let told = [("upload-length", length.as_str())];
    let short = sender.patch_with(&path, 16 * MIB, &[("upload-length", "5")], b"");
    assert_eq!(short.status, 400, "{}", short.words);
    let told = sender.patch_with(&path, 16 * MIB, &told, &bytes[16 * MIB..16 * MIB + 9]);
    assert_eq!(told.status, 204, "{}", told.words);
    let head = sender.head(&path);
    assert_eq!(head.header("upload-length"), Some(length.as_str()));
    assert_eq!(head.header("upload-defer-length"), None);
    let other = sender.patch_with(&path, head.offset(), &[("upload-length", "99999999")], b"");
    assert_eq!(other.status, 400, "{}", other.words);
    sender.send_rest(&path, &bytes, MIB);
    sender.complete(&batch, 1);
    sender.arrived(&batch, "live.bin", &bytes);

    // Told with the end, when nothing is left to send.
    let made = sender.post(&[
        ("upload-defer-length", "1"),
        ("upload-metadata", "filename YQ=="),
    ]);
    let path = made.header("location").unwrap().to_owned();
    assert_eq!(sender.patch(&path, 0, b"abc").status, 204);
    let ended = sender.patch_with(&path, 3, &[("upload-length", "3")], b"");
    assert_eq!((ended.status, ended.offset()), (204, 3), "{}", ended.words);
    let own = sender.batches().remove(0).name;
    sender.arrived(&own, "a", b"abc");
    ground.system.verify().unwrap();
}

// "Termination".
#[test]
fn an_upload_that_is_taken_back_is_gone_and_its_file_may_be_sent_anew() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let batch = sender.batch();
    let pairs = [("batch", batch.as_str()), ("path", "a.bin")];
    let bytes = noise(9 * MIB, 4);
    let path = sender.create(bytes.len(), &pairs);
    assert_eq!(sender.patch(&path, 0, &bytes[..8 * MIB + 5]).status, 204);
    assert_eq!(sender.send("DELETE", &path, &[], Vec::new()).status, 204);
    assert_eq!(sender.head(&path).status, 404);
    assert_eq!(sender.patch(&path, 8 * MIB + 5, b"1").status, 404);
    assert_eq!(sender.send("DELETE", &path, &[], Vec::new()).status, 404);
    let path = sender.create(bytes.len(), &pairs);
    sender.send_rest(&path, &bytes, bytes.len());
    sender.complete(&batch, 1);
    sender.arrived(&batch, "a.bin", &bytes);

    let own = sender.create(5, &[("filename", "b.txt")]);
    assert_eq!(sender.send("DELETE", &own, &[], Vec::new()).status, 204);
    let own = sender.batches().remove(0).name;
    assert_eq!(sender.ended(&own), BatchState::Cancelled);
    ground.system.verify().unwrap();
}

// "Expiration".
#[test]
fn an_upload_that_rests_for_too_long_is_gone_and_its_own_batch_says_that_it_never_arrived() {
    let ground = Ground::with(Database::Sqlite, &[("CAUDAL_TUS_LIFETIME", "2s")]);
    let sender = sender(&ground);
    let path = sender.create(10, &[("filename", "a.txt")]);
    assert_eq!(sender.patch(&path, 0, b"01234").status, 204);
    let own = sender.batches().remove(0).name;
    assert_eq!(sender.ended(&own), BatchState::Failed);
    let file = sender.files(&own).remove(0);
    assert_eq!(file.reason.unwrap().code, "NEVER_ARRIVED");
    eventually("the upload to be forgotten", || {
        in_pieces(&ground).is_empty().then_some(())
    });
    assert!(matches!(sender.patch(&path, 5, b"56789").status, 404 | 410));
}

// "Concatenation".
#[test]
fn parts_that_were_sent_side_by_side_become_one_file() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let batch = sender.batch();
    let bytes = noise(30 * MIB + 11, 5);
    // The second ends within a part of the whole, the third lies in one.
    let cuts = [0, 17 * MIB + 3, 19 * MIB, 19 * MIB, bytes.len()];
    let mut partials = Vec::new();
    for ends in cuts.windows(2) {
        let piece = &bytes[ends[0]..ends[1]];
        let length = piece.len().to_string();
        let made = sender.post(&[("upload-length", &length), ("upload-concat", "partial")]);
        assert_eq!(made.status, 201, "{}", made.words);
        let path = made.header("location").unwrap().to_owned();
        if ends[0] == 0 {
            let early = format!("final;{path}");
            let early = sender.post(&[("upload-concat", &early)]);
            assert_eq!(early.status, 409, "{}", early.words);
        }
        sender.send_rest(&path, piece, piece.len().max(1));
        let head = sender.head(&path);
        assert_eq!(head.header("upload-concat"), Some("partial"));
        assert_eq!(head.offset(), piece.len());
        partials.push(path);
    }
    let concat = format!("final;{}", partials.join(" "));
    let pairs = metadata(&[("batch", &batch), ("path", "whole.bin")]);
    let told = [("upload-concat", concat.as_str()), ("upload-length", "5")];
    assert_eq!(sender.post(&told).status, 400);
    let made = sender.post(&[("upload-concat", &concat), ("upload-metadata", &pairs)]);
    assert_eq!(made.status, 201, "{}", made.words);
    let path = made.header("location").unwrap().to_owned();
    let head = sender.head(&path);
    assert_eq!(head.header("upload-concat"), Some(concat.as_str()));
    assert_eq!(head.offset(), bytes.len());
    assert_eq!(
        head.header("upload-length"),
        Some(bytes.len().to_string().as_str())
    );
    assert_eq!(sender.patch(&path, bytes.len(), b"").status, 403);
    sender.complete(&batch, 1);
    sender.arrived(&batch, "whole.bin", &bytes);
    ground.system.verify().unwrap();
}

// Cross-origin requests, as browsers make them.
#[test]
fn a_page_of_another_origin_may_send_and_read_what_the_protocol_says() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let origin = ("origin", "https://intake.example");
    let asked = [
        origin,
        ("access-control-request-method", "PATCH"),
        (
            "access-control-request-headers",
            "authorization,content-type,tus-resumable,upload-checksum,upload-offset",
        ),
    ];
    let preflight = sender.bare("OPTIONS", "/files/x", &asked, Vec::new());
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    let listed = |name: &str| preflight.header(name).unwrap().to_ascii_lowercase();
    for method in ["post", "head", "patch", "delete"] {
        assert!(listed("access-control-allow-methods").contains(method));
    }
    for header in [
        "authorization",
        "upload-offset",
        "upload-defer-length",
        "upload-concat",
        "tus-resumable",
    ] {
        assert!(
            listed("access-control-allow-headers").contains(header),
            "{header}"
        );
    }
    let refused = sender.bare("POST", "/files", &[origin], Vec::new());
    assert_eq!(
        (
            refused.status,
            refused.header("access-control-allow-origin")
        ),
        (401, Some("*"))
    );
    let exposed = refused
        .header("access-control-expose-headers")
        .unwrap()
        .to_ascii_lowercase();
    for header in [
        "location",
        "upload-offset",
        "upload-length",
        "upload-expires",
        "tus-version",
    ] {
        assert!(exposed.contains(header), "{header}");
    }
}

#[test]
fn who_is_over_a_quota_is_told_its_figures_and_nothing_is_left_of_the_attempt() {
    let mut ground = Ground::new(Database::Postgres);
    let limit = r#"UPDATE tenants SET limits = '{"stored_bytes": 100}' RETURNING name"#;
    // The ready line does not say who connects.
    let database = ground.system.ready("database");
    let database = database.replace("postgres://", "postgres://postgres@");
    postgres::query(&database, limit).unwrap();
    // Limits are read when the ledger starts.
    ground.system.stop().unwrap();
    ground.system.restart().unwrap();
    let sender = sender(&ground);
    let refused = sender.post(&[
        ("upload-length", "101"),
        ("upload-metadata", "filename YQ=="),
    ]);
    assert_eq!(refused.status, 413);
    assert!(
        refused.words.contains("the limit is 100"),
        "{}",
        refused.words
    );
    let own = sender.batches().remove(0).name;
    assert_eq!(sender.ended(&own), BatchState::Cancelled);
    // What stands in no manifest is counted too.
    let partial = |length| {
        sender
            .post(&[("upload-length", length), ("upload-concat", "partial")])
            .status
    };
    assert_eq!(partial("60"), 201);
    assert_eq!(partial("60"), 413);
    assert_eq!(partial("40"), 201);
}

// A lock, and connections that break anywhere.
#[test]
fn one_request_writes_at_a_time_and_whatever_was_cut_goes_on_where_the_upload_says() {
    let ground = Ground::new(Database::Sqlite);
    let sender = sender(&ground);
    let batch = sender.batch();
    let bytes = noise(21 * MIB + 7, 6);
    let path = sender.create(bytes.len(), &[("batch", &batch), ("path", "a.bin")]);

    let open = sender.hold(&path, bytes.len(), &bytes[..9]);
    let second = sender.patch(&path, 0, &bytes);
    assert_eq!(second.status, 423, "{}", second.words);
    assert!(second.header("retry-after").is_some());
    open.cut();
    let mut offset = sender.offset_at_rest(&path);
    assert!(offset <= 9, "{offset}");
    // Some within a part, some after several.
    let anywhere = noise(6 * 3, std::process::id().into());
    println!("cut at {anywhere:?}");
    let anywhere = anywhere.chunks(3).map(|bytes| {
        usize::from(bytes[0]) << 13 | usize::from(bytes[1]) << 5 | usize::from(bytes[2])
    });
    let chosen = [1, 100_000, 8 * MIB, 8 * MIB + 1, 3, 400_001];
    for more in chosen.into_iter().chain(anywhere) {
        let end = bytes.len().min(offset + more);
        sender
            .begin_patch(&path, offset, bytes.len(), &bytes[offset..end])
            .cut();
        let next = sender.offset_at_rest(&path);
        assert!(
            (offset..=end).contains(&next),
            "{next} is not within {offset} and {end}"
        );
        offset = next;
    }
    sender.send_rest(&path, &bytes, bytes.len());
    sender.complete(&batch, 1);
    sender.arrived(&batch, "a.bin", &bytes);
    ground.system.verify().unwrap();
}

#[test]
fn an_upload_survives_the_end_of_everything_in_the_middle_of_a_request() {
    let mut ground = Ground::new(Database::Sqlite);
    let bytes = noise(26 * MIB + 5, 7);
    let first = sender(&ground);
    let batch = first.batch();
    let path = first.create(bytes.len(), &[("batch", &batch), ("path", "a.bin")]);
    let mut open = first.begin_patch(&path, 0, bytes.len(), &bytes[..17 * MIB]);
    open.send(&bytes[17 * MIB..18 * MIB]);
    eventually("two parts to be kept", || {
        (first.head(&path).offset() >= 16 * MIB).then_some(())
    });
    ground.system.kill().unwrap();
    ground.system.restart().unwrap();
    let second = sender(&ground);
    assert_eq!(second.head(&path).offset(), 16 * MIB);
    second.send_rest(&path, &bytes, 4 * MIB);
    second.complete(&batch, 1);
    second.arrived(&batch, "a.bin", &bytes);
    ground.system.verify().unwrap();
}

#[test]
fn more_uploads_at_once_than_memory_holds_wait_or_come_again_and_none_loses_a_byte() {
    const UPLOADS: usize = 24;
    let ground = Ground::with(Database::Sqlite, &[("CAUDAL_TUS_MEMORY", "64")]);
    let sender = sender(&ground);
    let batch = sender.batch();
    let uploads: Vec<(String, String, Vec<u8>)> = (0..UPLOADS)
        .map(|number| {
            let bytes = noise(7 * MIB + number, 100 + number as u64);
            let name = format!("{number}.bin");
            let path = sender.create(bytes.len() + 1, &[("batch", &batch), ("path", &name)]);
            (path, name, bytes)
        })
        .collect();
    // Each sends all of its bytes but the last, and stays: together they are more than twice what may be held.
    let refused = std::thread::scope(|scope| {
        let begun: Vec<_> = uploads
            .iter()
            .map(|(path, _, bytes)| {
                let sender = &sender;
                scope.spawn(move || {
                    let open = sender.begin_patch(path, 0, bytes.len() + 1, bytes);
                    open.status_within(Duration::from_secs(12))
                })
            })
            .collect();
        let answers = begun.into_iter().map(|thread| thread.join().unwrap());
        answers.filter(|status| *status == Some(503)).count()
    });
    assert!(
        (1..UPLOADS).contains(&refused),
        "{refused} were asked to come again"
    );
    for (path, name, bytes) in &uploads {
        let whole = [bytes.as_slice(), b"."].concat();
        sender.send_rest(path, &whole, whole.len());
        sender.arrived(&batch, name, &whole);
    }
    sender.complete(&batch, u32::try_from(UPLOADS).unwrap());
    assert_eq!(sender.ended(&batch), BatchState::Succeeded);
}
