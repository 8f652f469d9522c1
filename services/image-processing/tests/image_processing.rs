//! Real and hostile images, each processed in a sandbox child of this very executable.
#![expect(clippy::unwrap_used)]

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{Reason, WarningCode};
use caudal_image_processing::{ImageProcessing, ImageProviders, PARSERS, Processed, Settings};
use caudal_providers::breaker::BreakerPolicy;
use caudal_providers::{
    ApiKey, CaptionSettings, Captions, DEFAULT_PROMPT, PictureVectors, PictureVectorsSettings,
    ServerSettings, Unlimited,
};
use caudal_stage::sandbox::{Limits, Sandbox, run_child_if_asked};
use caudal_stage::{Failure, Handler};
use image::codecs::gif::GifEncoder;
use image::{DynamicImage, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use libtest_mimic::{Arguments, Trial};
use tokio_util::sync::CancellationToken;

/// Pictures of JPEG 2000, which no crate here writes; OpenJPEG made them. 1,200 pixels of a slope of colours;
const SLOPE: &[u8] = include_bytes!("pictures/slope.jp2");
/// 64 of noise in four tiles, without boxes;
const TILES: &[u8] = include_bytes!("pictures/noise.j2k");
/// and 32 of grey glass.
const GLASS: &[u8] = include_bytes!("pictures/glass.jp2");

type Test = (&'static str, fn(&Bench));

const TESTS: &[Test] = &[
    (
        "every_format_gives_its_size_a_thumbnail_and_a_hash",
        |bench| {
            for (format, name) in [
                (ImageFormat::Jpeg, "jpeg"),
                (ImageFormat::Png, "png"),
                (ImageFormat::Gif, "gif"),
                (ImageFormat::WebP, "webp"),
                (ImageFormat::Bmp, "bmp"),
                (ImageFormat::Tiff, "tiff"),
                (ImageFormat::Ico, "ico"),
            ] {
                if format == ImageFormat::Ico {
                    // No icon is so wide.
                    let icon = DynamicImage::from(picture(64, 32).to_rgba8());
                    let processed = bench.process(&encoded(&icon, format)).unwrap();
                    assert_eq!(processed.facts["format"], name);
                    let png = encoded(&picture(64, 32), ImageFormat::Png);
                    let processed = bench.process(&icon_of(&png, 64, 32)).unwrap();
                    assert_eq!(processed.facts["format"], name);
                    assert_eq!(processed.facts["width"], 64);
                    continue;
                }
                let processed = bench.process(&encoded(&picture(800, 400), format)).unwrap();
                let facts = &processed.facts;
                assert_eq!(facts["format"], name);
                assert_eq!(
                    (facts["width"].as_u64(), facts["height"].as_u64()),
                    (Some(800), Some(400)),
                    "{name}"
                );
                assert_eq!(
                    (facts["animated"].as_bool(), facts["orientation"].as_u64()),
                    (Some(false), Some(1)),
                    "{name}"
                );
                assert_eq!(facts["perceptual_hash"].as_str().unwrap().len(), 16);
                assert_eq!(processed.thumbnail_name, "thumbnail.jpg");
                let thumbnail = image::load_from_memory(&processed.thumbnail).unwrap();
                assert_eq!(
                    (thumbnail.width(), thumbnail.height()),
                    (512, 256),
                    "{name}"
                );
            }
        },
    ),
    ("jpeg_2000_is_shown_with_and_without_its_boxes", |bench| {
        let processed = bench.process(SLOPE).unwrap();
        let facts = &processed.facts;
        assert_eq!(facts["format"], "jp2");
        assert_eq!(
            (facts["width"].as_u64(), facts["height"].as_u64()),
            (Some(1200), Some(900))
        );
        assert_eq!(codes(&processed), [WarningCode::NoCaptionProvider]);
        let thumbnail = image::load_from_memory(&processed.thumbnail).unwrap();
        assert_eq!((thumbnail.width(), thumbnail.height()), (512, 384));
        // Red grows to the right, green downwards.
        let corner = |x, y| thumbnail.to_rgb8().get_pixel(x, y).0;
        let (first, last) = (corner(4, 4), corner(507, 379));
        assert!(
            first[0] < 20 && first[1] < 20 && last[0] > 235 && last[1] > 235,
            "{first:?} {last:?}"
        );

        let bare = bench.process(TILES).unwrap();
        assert_eq!(
            (bare.facts["width"].as_u64(), bare.facts["format"].as_str()),
            (Some(64), Some("jp2"))
        );
        let glass = bench.process(GLASS).unwrap();
        assert_eq!(
            (glass.thumbnail_name, glass.facts["transparent"].as_bool()),
            ("thumbnail.png", Some(true))
        );
        assert_eq!(codes(&glass), [WarningCode::NoCaptionProvider]);
    }),
    ("a_jpeg_2000_that_was_cut_says_so", |bench| {
        // One tile of four is missing, then three.
        let processed = bench.process(&TILES[..TILES.len() * 9 / 10]).unwrap();
        assert_eq!(
            codes(&processed),
            [WarningCode::NoCaptionProvider, WarningCode::PartialImage]
        );
        for cut in [TILES.len() / 4, 120, 40, 10] {
            let failure = bench
                .process(&TILES[..cut])
                .map(|done| done.facts)
                .unwrap_err();
            assert_eq!(
                failure.reason,
                Reason::CorruptImage,
                "{cut}: {}",
                failure.detail
            );
        }
    }),
    ("a_jpeg_2000_larger_than_allowed_is_refused", |bench| {
        // Its size stands behind the markers of its beginning, and the size of a tile behind that.
        let mut huge = TILES.to_vec();
        for (place, number) in [(8, 60_000_u32), (12, 60_000), (24, 60_000), (28, 60_000)] {
            huge[place..place + 4].copy_from_slice(&number.to_be_bytes());
        }
        let failure = bench.process(&huge).map(|done| done.facts).unwrap_err();
        assert_eq!(failure.reason, Reason::ImageTooLarge, "{}", failure.detail);
        // Millions of tiles of one pixel.
        let mut tiles = TILES.to_vec();
        for (place, number) in [(8, 9_000_u32), (12, 9_000), (24, 1), (28, 1)] {
            tiles[place..place + 4].copy_from_slice(&number.to_be_bytes());
        }
        assert!(bench.process(&tiles).is_err());
    }),
    ("a_caption_is_never_invented", |bench| {
        let processed = bench
            .process(&encoded(&picture(20, 20), ImageFormat::Png))
            .unwrap();
        let codes: Vec<WarningCode> = processed
            .warnings
            .iter()
            .map(|warning| warning.code)
            .collect();
        assert_eq!(codes, vec![WarningCode::NoCaptionProvider]);
        assert!(processed.facts.get("caption").is_none());
    }),
    (
        "what_providers_are_shown_is_a_small_upright_jpeg_on_white",
        |bench| {
            let shown = Bench::shown(1_024, 256);
            let photograph = with_exif(
                &encoded(&picture(3_000, 1_500), ImageFormat::Jpeg),
                &exif_of_a_camera(),
            );
            let processed = shown.process(&photograph).unwrap();
            assert!(processed.warnings.is_empty(), "there is a caption provider");
            let sides: Vec<u32> = processed.views.iter().map(|view| view.side).collect();
            assert_eq!(sides, [1_024, 256]);
            for view in &processed.views {
                let image = image::load_from_memory(&view.jpeg).unwrap();
                assert_eq!((image.width(), image.height()), (view.side / 2, view.side));
            }
            // Both ask for the same: it is made once.
            let alike = Bench::shown(300, 300).process(&photograph).unwrap();
            assert_eq!(alike.views.len(), 1);

            let glass = DynamicImage::from(RgbaImage::from_pixel(90, 40, Rgba([10, 20, 30, 0])));
            let processed = shown.process(&encoded(&glass, ImageFormat::Png)).unwrap();
            let view = image::load_from_memory(&processed.views[0].jpeg).unwrap();
            assert_eq!((view.width(), view.height()), (90, 40));
            assert_eq!(view.to_rgb8().get_pixel(20, 20), &Rgb([255, 255, 255]));
            let pixels = shown.process(SLOPE).unwrap();
            let view = image::load_from_memory(&pixels.views[0].jpeg).unwrap();
            assert_eq!((view.width(), view.height()), (1_024, 768));
            assert!(bench.process(SLOPE).unwrap().views.is_empty());
        },
    ),
    (
        "the_version_names_models_and_what_changes_results",
        |bench| {
            let version = bench.stage.version();
            assert_eq!(
                (version.model.as_str(), version.options.as_str()),
                ("", "thumbnail=512")
            );
            let shown = Bench::shown(1_024, 256).stage.version();
            assert_eq!(shown.model, "seer+clip");
            assert_ne!(shown, Bench::shown(512, 256).stage.version());
            assert_ne!(shown, Bench::shown(1_024, 128).stage.version());
            assert!(!shown.options.contains("sk-secret"));
        },
    ),
    ("a_small_picture_is_not_made_larger", |bench| {
        let processed = bench
            .process(&encoded(&picture(30, 20), ImageFormat::Png))
            .unwrap();
        let thumbnail = image::load_from_memory(&processed.thumbnail).unwrap();
        assert_eq!((thumbnail.width(), thumbnail.height()), (30, 20));
    }),
    ("what_shows_through_keeps_a_png_thumbnail", |bench| {
        let glass = RgbaImage::from_pixel(600, 600, Rgba([10, 20, 30, 100]));
        let processed = bench
            .process(&encoded(&DynamicImage::from(glass), ImageFormat::Png))
            .unwrap();
        assert_eq!(
            (processed.thumbnail_name, processed.thumbnail_type),
            ("thumbnail.png", "image/png")
        );
        assert_eq!(processed.facts["transparent"], true);
        let opaque = RgbaImage::from_pixel(600, 600, Rgba([10, 20, 30, 255]));
        let processed = bench
            .process(&encoded(&DynamicImage::from(opaque), ImageFormat::Png))
            .unwrap();
        assert_eq!(processed.thumbnail_name, "thumbnail.jpg");
    }),
    (
        "a_photograph_is_turned_upright_and_its_camera_is_told",
        |bench| {
            let photograph = with_exif(
                &encoded(&picture(400, 200), ImageFormat::Jpeg),
                &exif_of_a_camera(),
            );
            let processed = bench.process(&photograph).unwrap();
            let facts = &processed.facts;
            // Stored lying on its side: orientation 6 turns it by 90 degrees.
            assert_eq!(facts["orientation"], 6);
            assert_eq!(
                (facts["width"].as_u64(), facts["height"].as_u64()),
                (Some(200), Some(400))
            );
            assert_eq!(facts["exif"]["make"], "Canon");
            assert_eq!(facts["exif"]["taken_at"], "2024-05-31 18:20:05");
            assert_eq!(facts["exif"]["has_gps"], false);
            let thumbnail = image::load_from_memory(&processed.thumbnail).unwrap();
            assert_eq!((thumbnail.width(), thumbnail.height()), (200, 400));
        },
    ),
    ("alike_pictures_have_alike_hashes", |bench| {
        let hash = |bytes: &[u8]| {
            let processed = bench.process(bytes).unwrap();
            u64::from_str_radix(processed.facts["perceptual_hash"].as_str().unwrap(), 16).unwrap()
        };
        let original = hash(&encoded(&picture(800, 400), ImageFormat::Png));
        let smaller = hash(&encoded(
            &picture(800, 400).thumbnail(300, 150),
            ImageFormat::Jpeg,
        ));
        let other = hash(&encoded(
            &picture(800, 400).fliph().rotate90(),
            ImageFormat::Png,
        ));
        assert!(
            (original ^ smaller).count_ones() <= 6,
            "{original:016x} {smaller:016x}"
        );
        assert!(
            (original ^ other).count_ones() >= 12,
            "{original:016x} {other:016x}"
        );
    }),
    ("an_animation_is_told_from_a_picture", |bench| {
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new(&mut bytes);
        for shade in [0, 255] {
            encoder
                .encode_frame(Frame::new(RgbaImage::from_pixel(
                    40,
                    40,
                    Rgba([shade, 0, 0, 255]),
                )))
                .unwrap();
        }
        drop(encoder);
        let processed = bench.process(&bytes).unwrap();
        assert_eq!(processed.facts["animated"], true);
        assert!(codes(&processed).contains(&WarningCode::FirstFrameOnly));
    }),
    (
        "a_header_of_64k_by_64k_pixels_is_refused_before_it_is_decoded",
        |bench| {
            let failure = bench.process(&png_header(65_535, 65_535)).unwrap_err();
            assert_eq!(failure.reason, Reason::ImageTooLarge, "{}", failure.detail);
            for side in [60_000, u32::MAX] {
                // The fields of width and height, as long numbers.
                let mut tiff = pages_of([[200, 0, 0]; 3]);
                for field in [10, 22] {
                    tiff[field + 2] = 4;
                    tiff[field + 8..field + 12].copy_from_slice(&side.to_le_bytes());
                }
                let failure = bench.process(&tiff).unwrap_err();
                assert_eq!(failure.reason, Reason::ImageTooLarge, "{}", failure.detail);
            }
        },
    ),
    ("a_gif_canvas_larger_than_allowed_is_refused", |bench| {
        let mut bytes = encoded(&picture(10, 10), ImageFormat::Gif);
        bytes[6..10].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        let failure = bench.process(&bytes).unwrap_err();
        assert_eq!(failure.reason, Reason::ImageTooLarge, "{}", failure.detail);
    }),
    ("a_picture_cut_short_is_corrupt", |bench| {
        for format in [
            ImageFormat::Jpeg,
            ImageFormat::Png,
            ImageFormat::Gif,
            ImageFormat::WebP,
            ImageFormat::Bmp,
            ImageFormat::Tiff,
        ] {
            let whole = encoded(&noise(300, 300), format);
            let failure = bench.process(&whole[..whole.len() / 3]).unwrap_err();
            assert_eq!(
                failure.reason,
                Reason::CorruptImage,
                "{format:?}: {}",
                failure.detail
            );
        }
    }),
    (
        "a_picture_that_is_nearly_whole_is_shown_and_says_so",
        |bench| {
            for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Bmp] {
                let whole = encoded(&noise(300, 300), format);
                let processed = bench.process(&whole[..whole.len() * 9 / 10]).unwrap();
                assert!(
                    codes(&processed).contains(&WarningCode::PartialImage),
                    "{format:?}"
                );
                let missing = processed.facts["missing_percent"].as_u64().unwrap();
                assert!(
                    (4..=20).contains(&missing),
                    "{format:?}: {missing} % missing"
                );
                let processed = bench.process(&whole).unwrap();
                assert_eq!(
                    codes(&processed),
                    [WarningCode::NoCaptionProvider],
                    "{format:?}"
                );
            }
        },
    ),
    ("a_picture_without_its_end_is_shown_and_says_so", |bench| {
        let jpeg = encoded(&noise(100, 100), ImageFormat::Jpeg);
        let png = encoded(&noise(100, 100), ImageFormat::Png);
        for cut in [&jpeg[..jpeg.len() - 2], &png[..png.len() - 12]] {
            let processed = bench.process(cut).unwrap();
            assert_eq!(
                codes(&processed),
                [WarningCode::NoCaptionProvider, WarningCode::PartialImage]
            );
            assert_eq!(processed.facts["missing_percent"], 0);
        }
    }),
    (
        "data_that_is_missing_before_an_end_marker_is_told",
        |bench| {
            let whole = encoded(&noise(300, 300), ImageFormat::Jpeg);
            let third = [&whole[..whole.len() / 3], b"\xff\xd9"].concat();
            let failure = bench.process(&third).map(|done| done.facts).unwrap_err();
            assert_eq!(failure.reason, Reason::CorruptImage);
            let most = [&whole[..whole.len() * 3 / 4], b"\xff\xd9"].concat();
            let processed = bench.process(&most).unwrap();
            assert!(codes(&processed).contains(&WarningCode::PartialImage));
            let mut zeros = whole.clone();
            let middle = whole.len() / 2;
            zeros[middle..middle + 2_000].fill(0);
            match bench.process(&zeros) {
                Ok(processed) => assert!(codes(&processed).contains(&WarningCode::PartialImage)),
                Err(failure) => assert_eq!(failure.reason, Reason::CorruptImage),
            }
        },
    ),
    ("a_grey_picture_is_whole", |bench| {
        let grey = DynamicImage::from(RgbImage::from_pixel(200, 200, Rgb([128, 128, 128])));
        let processed = bench.process(&encoded(&grey, ImageFormat::Jpeg)).unwrap();
        assert_eq!(codes(&processed), [WarningCode::NoCaptionProvider]);
    }),
    (
        "of_a_file_of_several_pages_the_first_is_shown_and_the_number_told",
        |bench| {
            let processed = bench
                .process(&pages_of([[255, 0, 0], [0, 255, 0], [0, 0, 255]]))
                .unwrap();
            assert_eq!(processed.facts["pages"], 3);
            assert!(codes(&processed).contains(&WarningCode::FirstFrameOnly));
            let thumbnail = image::load_from_memory(&processed.thumbnail)
                .unwrap()
                .to_rgb8();
            let Rgb([red, green, blue]) = *thumbnail.get_pixel(1, 1);
            assert!(
                red > 200 && green < 60 && blue < 60,
                "the first page is red"
            );
        },
    ),
    (
        "one_fault_in_the_cameras_data_takes_nothing_else_away",
        |bench| {
            let mut segment = exif_of_a_camera();
            // As some writers leave it: without the place of a next list.
            let end_of_list = b"Exif\0\0".len() + 8 + 2 + 3 * 12;
            segment[end_of_list..end_of_list + 4].copy_from_slice(&[0xff; 4]);
            let photograph = with_exif(&encoded(&picture(40, 20), ImageFormat::Jpeg), &segment);
            let processed = bench.process(&photograph).unwrap();
            assert_eq!(processed.facts["exif"]["taken_at"], "2024-05-31 18:20:05");
            assert_eq!(codes(&processed), [WarningCode::NoCaptionProvider]);
        },
    ),
    (
        "a_bitmap_wider_than_its_format_allows_is_too_large_and_not_corrupt",
        |bench| {
            let mut bytes = encoded(&picture(10, 10), ImageFormat::Bmp);
            bytes[18..22].copy_from_slice(&70_000_000_i32.to_le_bytes());
            let failure = bench.process(&bytes).unwrap_err();
            assert_eq!(failure.reason, Reason::ImageTooLarge, "{}", failure.detail);
        },
    ),
    ("bytes_that_are_no_image_are_unsupported", |bench| {
        for bytes in [b"hello".as_slice(), b""] {
            assert_eq!(
                bench.process(bytes).unwrap_err().reason,
                Reason::UnsupportedImage
            );
        }
    }),
    (
        "broken_camera_data_costs_a_warning_and_not_the_picture",
        |bench| {
            let photograph = with_exif(
                &encoded(&picture(40, 20), ImageFormat::Jpeg),
                b"Exif\0\0XX no tiff at all",
            );
            let processed = bench.process(&photograph).unwrap();
            assert!(
                processed
                    .warnings
                    .iter()
                    .any(|warning| warning.code == WarningCode::UnreadableExif)
            );
        },
    ),
    (
        "a_picture_that_needs_more_memory_than_a_child_has_costs_its_own_attempt",
        |_| {
            let settings = Settings {
                sandbox: Limits {
                    memory: 24 << 20,
                    ..Settings::default().sandbox
                },
                ..Settings::default()
            };
            let bench = Bench::with(settings);
            let failure = bench
                .process(&encoded(&picture(4000, 4000), ImageFormat::Png))
                .unwrap_err();
            assert!(
                matches!(
                    failure.reason,
                    Reason::ParserOutOfMemory | Reason::ImageTooLarge
                ),
                "{:?} {}",
                failure.reason,
                failure.detail
            );
            assert!(
                bench
                    .process(&encoded(&picture(40, 40), ImageFormat::Png))
                    .is_ok()
            );
        },
    ),
    ("damaged_pictures_end_with_a_reason_each_time", |bench| {
        let jpeg = encoded(&noise(60, 60), ImageFormat::Jpeg);
        let wholes = [jpeg.as_slice(), TILES, GLASS];
        for (whole, step) in wholes
            .iter()
            .flat_map(|whole| (0..12).map(move |step| (whole, step)))
        {
            let mut damaged = whole.to_vec();
            let place = 2 + step * (damaged.len() - 3) / 12;
            damaged[place] ^= 0xff;
            if let Err(failure) = bench.process(&damaged) {
                assert!(
                    matches!(
                        failure.reason,
                        Reason::CorruptImage | Reason::ImageTooLarge | Reason::UnsupportedImage
                    ),
                    "byte {place}: {:?} {}",
                    failure.reason,
                    failure.detail
                );
            }
        }
    }),
    ("the_sample_pictures_are_processed", |bench| {
        for path in samples(&["jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff"]) {
            let name = path.display().to_string();
            match bench.process(&std::fs::read(&path).unwrap()) {
                Ok(processed) => assert!(processed.facts["width"].as_u64().unwrap() > 0, "{name}"),
                Err(failure) => assert_eq!(
                    failure.reason,
                    Reason::CorruptImage,
                    "{name}: {}",
                    failure.detail
                ),
            }
        }
    }),
];

fn main() -> ExitCode {
    run_child_if_asked(PARSERS);
    let bench = Arc::new(Bench::with(Settings::default()));
    let trials = TESTS
        .iter()
        .map(|(name, test)| {
            let bench = Arc::clone(&bench);
            Trial::test(*name, move || {
                test(&bench);
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    stage: ImageProcessing,
    folder: tempfile::TempDir,
}

impl Bench {
    fn with(settings: Settings) -> Self {
        let sandbox = Sandbox::of_this_executable(Limits::default()).unwrap();
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            stage: ImageProcessing::new(&sandbox, settings),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A bench with providers who are shown pictures of these sides. Nobody is there: nothing is asked here.
    fn shown(captions: u32, vectors: u32) -> Self {
        let server = |model: &str| ServerSettings {
            base_url: "http://127.0.0.1:1/v1".to_owned(),
            model: model.to_owned(),
            api_key: ApiKey::new("sk-secret"),
            timeout: Duration::from_secs(1),
            breaker: BreakerPolicy::default(),
        };
        let captions = CaptionSettings {
            server: server("seer"),
            prompt: DEFAULT_PROMPT.to_owned(),
            language: "English".to_owned(),
            detail: "auto".to_owned(),
            side: captions,
            max_tokens: 300,
            max_characters: 2_000,
            requests: 4,
        };
        let vectors = PictureVectorsSettings {
            server: server("clip"),
            dimensions: None,
            side: vectors,
            batch: 8,
        };
        let providers = ImageProviders::new(
            Some(Captions::new(captions, Arc::new(Unlimited)).unwrap()),
            Some(PictureVectors::new(vectors, Arc::new(Unlimited)).unwrap()),
        );
        let bench = Self::with(Settings::default());
        Self {
            stage: bench.stage.with_providers(providers),
            ..bench
        }
    }

    fn process(&self, bytes: &[u8]) -> Result<Processed, Failure> {
        let input = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        std::fs::write(input.path(), bytes).unwrap();
        self.runtime
            .block_on(self.stage.process(input.path(), &CancellationToken::new()))
    }
}

fn codes(processed: &Processed) -> Vec<WarningCode> {
    let warnings = processed.warnings.iter();
    warnings.map(|warning| warning.code).collect()
}

/// A TIFF of a page for each colour, two pixels wide and high.
fn pages_of(colours: [[u8; 3]; 3]) -> Vec<u8> {
    const FIELDS: u16 = 8;
    const PIXELS: usize = 4;
    let page_bytes = 2 + usize::from(FIELDS) * 12 + 4 + 8 + PIXELS * 3;
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    for (index, colour) in colours.iter().enumerate() {
        let begins = bytes.len();
        let bits_at = begins + 2 + usize::from(FIELDS) * 12 + 4;
        let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
        bytes.extend_from_slice(&FIELDS.to_le_bytes());
        for (tag, kind, count, value) in [
            (256_u16, 3_u16, 1, 2),
            (257, 3, 1, 2),
            (258, 3, 3, bits_at),
            (259, 3, 1, 1),
            (262, 3, 1, 2),
            (273, 4, 1, bits_at + 8),
            (277, 3, 1, 3),
            (279, 4, 1, PIXELS * 3),
        ] {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(&number(count));
            bytes.extend_from_slice(&number(value));
        }
        let is_last = index + 1 == colours.len();
        bytes.extend_from_slice(&number(if is_last { 0 } else { begins + page_bytes }));
        bytes.extend_from_slice(&[8, 0, 8, 0, 8, 0, 0, 0]);
        bytes.extend_from_slice(&colour.repeat(PIXELS));
    }
    bytes
}

/// An icon of one picture, a PNG without an alpha channel.
fn icon_of(png: &[u8], width: u8, height: u8) -> Vec<u8> {
    let mut icon = vec![0, 0, 1, 0, 1, 0, width, height, 0, 0, 1, 0, 24, 0];
    icon.extend_from_slice(&u32::try_from(png.len()).unwrap().to_le_bytes());
    icon.extend_from_slice(&22_u32.to_le_bytes());
    icon.extend_from_slice(png);
    icon
}

/// A gradient with a disc in it: something to see, the same at every size.
fn picture(width: u32, height: u32) -> DynamicImage {
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = (x as f32 / width as f32, y as f32 / height as f32);
        let near = (across - 0.3).hypot(down - 0.4) < 0.25;
        Rgb([
            (across * 255.0) as u8,
            if near { 240 } else { (down * 120.0) as u8 },
            90,
        ])
    });
    DynamicImage::from(picture)
}

/// Pixels that compress badly, so that half of the file is half of the picture.
fn noise(width: u32, height: u32) -> DynamicImage {
    let mut state = 7_u32;
    DynamicImage::from(RgbImage::from_fn(width, height, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, _] = state.to_be_bytes();
        Rgb([a, b, c])
    }))
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut bytes), format)
        .unwrap();
    bytes
}

/// A PNG that says how large it is, and then nothing.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend_from_slice(&width.to_be_bytes());
    chunk.extend_from_slice(&height.to_be_bytes());
    chunk.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend_from_slice(&13_u32.to_be_bytes());
    bytes.extend_from_slice(&chunk);
    bytes.extend_from_slice(&crc32fast::hash(&chunk).to_be_bytes());
    bytes.extend_from_slice(&0_u32.to_be_bytes());
    bytes.extend_from_slice(b"IDAT");
    bytes.extend_from_slice(&crc32fast::hash(b"IDAT").to_be_bytes());
    bytes
}

/// Puts an APP1 segment right after a JPEG's first marker.
fn with_exif(jpeg: &[u8], segment: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend_from_slice(&[0xff, 0xe1]);
    bytes.extend_from_slice(&u16::try_from(segment.len() + 2).unwrap().to_be_bytes());
    bytes.extend_from_slice(segment);
    bytes.extend_from_slice(&jpeg[2..]);
    bytes
}

/// A TIFF directory of three fields: make, orientation 6, date.
fn exif_of_a_camera() -> Vec<u8> {
    const FIRST_DIRECTORY: u32 = 8;
    const FIELDS: u16 = 3;
    let texts_at = FIRST_DIRECTORY + 2 + u32::from(FIELDS) * 12 + 4;
    let (make, date) = (b"Canon\0", b"2024:05:31 18:20:05\0");
    let mut tiff = b"MM\0*".to_vec();
    tiff.extend_from_slice(&FIRST_DIRECTORY.to_be_bytes());
    tiff.extend_from_slice(&FIELDS.to_be_bytes());
    let mut field = |tag: u16, kind: u16, count: u32, value: [u8; 4]| {
        tiff.extend_from_slice(&tag.to_be_bytes());
        tiff.extend_from_slice(&kind.to_be_bytes());
        tiff.extend_from_slice(&count.to_be_bytes());
        tiff.extend_from_slice(&value);
    };
    field(0x010f, 2, 6, texts_at.to_be_bytes());
    field(0x0112, 3, 1, [0, 6, 0, 0]);
    field(0x0132, 2, 20, (texts_at + 6).to_be_bytes());
    tiff.extend_from_slice(&0_u32.to_be_bytes());
    tiff.extend_from_slice(make);
    tiff.extend_from_slice(date);
    [b"Exif\0\0".to_vec(), tiff].concat()
}

fn samples(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
            {
                found.push(path);
            }
        }
    }
    found
}
