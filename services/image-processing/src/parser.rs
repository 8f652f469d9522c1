//! Decoding an image, in a sandbox child: thumbnail, perceptual hash and facts.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};

use caudal_domain::Reason;
use caudal_stage::sandbox::{ParseFailure, Parsed, Parser};
use image::codecs::gif::GifDecoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{
    AnimationDecoder, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
    Rgb, RgbImage, RgbaImage,
};
use image_hasher::{HashAlg, HasherConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::camera::{self, Camera};
use crate::{icon, jp2, jpeg, partial, tiff};

/// The name under which a sandbox child finds the parser.
pub(crate) const PARSER: &str = "image";

/// Every parser of this stage, by the name under which a sandbox child finds it.
pub const PARSERS: &[(&str, Parser)] = &[(PARSER, parse)];

/// The thumbnail's blob: a JPEG, or a PNG where something shows through.
pub(crate) const JPEG_BLOB: &str = "thumbnail.jpg";
/// See [`JPEG_BLOB`].
pub(crate) const PNG_BLOB: &str = "thumbnail.png";

/// What stands before the side in the name of a picture that is shown to providers: a JPEG.
const VIEW_BLOB: &str = "view-";

/// The quality of a JPEG, of 100.
const JPEG_QUALITY: u8 = 82;

/// The largest JPEG that is decoded a second time to see whether all of it is there.
const MOST_CHECKED: u64 = 40_000_000;

/// The share of rows that may be missing of a picture that is shown.
const MOST_MISSING: f64 = 0.45;

/// A side of the perceptual hash, in bits: 64 in all.
const HASH_SIDE: u32 = 8;

/// What the stage asks of the parser.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) max_pixels: u64,
    pub(crate) max_decoded_bytes: u64,
    pub(crate) thumbnail_side: u32,
    /// The longer sides of the pictures that are shown to providers.
    pub(crate) view_sides: Vec<u32>,
}

impl Request {
    /// The longer side of the largest picture that is made.
    fn largest_side(&self) -> u32 {
        let sides = self.view_sides.iter().copied();
        sides.fold(self.thumbnail_side, u32::max)
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Pixels across, as it is meant to be looked at.
    pub(crate) width: u32,
    /// Pixels down, likewise.
    pub(crate) height: u32,
    /// `jpeg`, `png`, `gif`, `webp`, `bmp`, `tiff`, `ico`, `jp2`.
    pub(crate) format: String,
    /// How it is stored, by the EXIF number: 1 is upright.
    pub(crate) orientation: u8,
    /// Whether it has more than one frame.
    pub(crate) animated: bool,
    /// How many pages it has, where that is more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pages: Option<u32>,
    /// Of its rows, how many in a hundred are missing, where any are; 0 where only its end is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) missing_percent: Option<u32>,
    /// Whether anything shows through it.
    pub(crate) transparent: bool,
    /// 64 bits in hex: images that look alike differ in few of them.
    pub(crate) perceptual_hash: String,
    /// What the camera wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exif: Option<Camera>,
    /// Whether the camera's data is there and cannot be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) exif_unreadable: bool,
}

fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::deserialize(request).map_err(|error| internal(&error))?;
    let mut head = Vec::new();
    (&mut *input)
        .take(jp2::SIGNATURE_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(|error| internal(&error))?;
    if jp2::begins(&head) {
        return look_at_jp2(&request, input);
    }
    input.rewind().map_err(|error| internal(&error))?;
    let format = ImageReader::new(BufReader::new(&mut *input))
        .with_guessed_format()
        .map_err(|error| internal(&error))?
        .format()
        .ok_or_else(|| {
            ParseFailure::new(
                Reason::UnsupportedImage,
                "its first bytes are of no image format that is decoded",
            )
        })?;
    if format == ImageFormat::Ico
        && let Some(png) = icon::png(&mut rewound(input)?)
    {
        return look(
            &request,
            &mut Cursor::new(png),
            ImageFormat::Png,
            name(format),
        );
    }
    look(&request, input, format, name(format))
}

/// Looks at a picture that is one file, or a part of one.
fn look<I: Read + Seek>(
    request: &Request,
    input: &mut I,
    format: ImageFormat,
    name: &str,
) -> Result<Parsed, ParseFailure> {
    let (stored_width, stored_height) = decoder(rewound(input)?, format, request)?.dimensions();
    let pixels = u64::from(stored_width) * u64::from(stored_height);
    if pixels > request.max_pixels {
        return Err(ParseFailure::new(
            Reason::ImageTooLarge,
            format!(
                "{stored_width} x {stored_height} pixels are more than {}",
                request.max_pixels
            ),
        ));
    }
    let missing_of_jpeg = if format == ImageFormat::Jpeg {
        missing_of_jpeg(input, pixels)?
    } else {
        None
    };
    let mut decoder = decoder(rewound(input)?, format, request)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (picture, missing) = match DynamicImage::from_decoder(decoder) {
        Ok(picture) => (picture, missing_of_jpeg),
        Err(error) => {
            let failure = refused(&error);
            if failure.reason != Reason::CorruptImage {
                return Err(failure);
            }
            // What was decoded before the fault is there to be shown.
            let decoder = self::decoder(rewound(input)?, format, request)?;
            let (picture, missing) = partial::decode(decoder).ok_or(failure)?;
            (picture, Some(missing))
        }
    };
    // A decoder that comes to nothing may only be strict: then there is a picture all the same.
    let missing = missing.filter(|missing| *missing < 1.0 || partial::is_blank(&picture));
    if missing.is_some_and(|missing| missing > MOST_MISSING) {
        return Err(ParseFailure::new(
            Reason::CorruptImage,
            "most of its data is missing",
        ));
    }

    let (exif, exif_unreadable) = match camera::read(&mut rewound(input)?) {
        Ok(camera) => (camera, false),
        // Where the end of a file is missing nobody knows what stood there.
        Err(_) => (None, missing.is_none()),
    };
    let beside = Beside {
        animated: is_animated(rewound(input)?, format, request),
        pages: pages(rewound(input)?, format),
        exif,
        exif_unreadable,
    };
    let seen = Seen {
        picture,
        size: (stored_width, stored_height),
        orientation,
        missing,
    };
    told(request, name, seen, beside)
}

/// The same for JPEG 2000.
fn look_at_jp2(request: &Request, input: &mut File) -> Result<Parsed, ParseFailure> {
    let mut bytes = Vec::new();
    rewound(input)?
        .read_to_end(&mut bytes)
        .map_err(|error| internal(&error))?;
    let decoded = jp2::decode(
        &bytes,
        request.max_pixels,
        request.max_decoded_bytes,
        request.largest_side(),
    )?;
    let missing = decoded
        .is_damaged
        .then(|| partial::missing(&decoded.picture));
    if decoded.is_damaged && partial::is_blank(&decoded.picture)
        || missing.is_some_and(|missing| missing > MOST_MISSING)
    {
        return Err(ParseFailure::new(
            Reason::CorruptImage,
            "most of its data is missing",
        ));
    }
    let seen = Seen {
        picture: decoded.picture,
        size: decoded.size,
        orientation: Orientation::NoTransforms,
        missing,
    };
    told(request, "jp2", seen, Beside::default())
}

/// A picture as it was decoded.
struct Seen {
    picture: DynamicImage,
    /// Pixels across and down, as it is stored.
    size: (u32, u32),
    orientation: Orientation,
    missing: Option<f64>,
}

/// What a file holds beside its picture.
#[derive(Default)]
struct Beside {
    animated: bool,
    pages: Option<u32>,
    exif: Option<Camera>,
    exif_unreadable: bool,
}

/// The thumbnail, what is shown to providers, and the facts of a picture.
fn told(request: &Request, name: &str, seen: Seen, beside: Beside) -> Result<Parsed, ParseFailure> {
    let views = request
        .view_sides
        .iter()
        .map(|side| view(&seen.picture, *side, seen.orientation));
    let views = views.collect::<Result<Vec<_>, _>>()?;
    // Turned after it was made small: turning the whole picture would need a second one in memory.
    let mut thumbnail = smaller(seen.picture, request.thumbnail_side);
    thumbnail.apply_orientation(seen.orientation);
    let turned = matches!(
        seen.orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (width, height) = if turned {
        (seen.size.1, seen.size.0)
    } else {
        seen.size
    };
    let transparent = shows_through(&thumbnail);
    let facts = Facts {
        width,
        height,
        format: name.to_owned(),
        orientation: seen.orientation.to_exif(),
        animated: beside.animated,
        pages: beside.pages,
        missing_percent: seen.missing.map(|missing| (missing * 100.0).round() as u32),
        transparent,
        perceptual_hash: perceptual_hash(&thumbnail),
        exif: beside.exif,
        exif_unreadable: beside.exif_unreadable,
    };
    let mut blobs = vec![encoded(&thumbnail, transparent)?];
    blobs.extend(views);
    Ok(Parsed {
        value: serde_json::to_value(facts).map_err(|error| internal(&error))?,
        blobs,
    })
}

/// Of a JPEG, the share of rows that are missing; none where it is whole. Its decoder fills them with grey, and says nothing.
fn missing_of_jpeg(
    input: &mut (impl Read + Seek),
    pixels: u64,
) -> Result<Option<f64>, ParseFailure> {
    let scan = jpeg::scan(rewound(input)?).map_err(|error| internal(&error))?;
    let missing = if pixels <= MOST_CHECKED {
        jpeg::missing_rows(input)?
    } else {
        None
    };
    let is_damaged = !scan.is_closed || scan.has_hole;
    Ok(missing.or(is_damaged.then_some(0.0)))
}

/// How many pages a file has, where that is more than one.
fn pages(input: impl BufRead + Seek, format: ImageFormat) -> Option<u32> {
    let pages = (format == ImageFormat::Tiff).then(|| tiff::pages(input))?;
    (pages > 1).then_some(pages)
}

fn rewound<I: Read + Seek>(input: &mut I) -> Result<BufReader<&mut I>, ParseFailure> {
    input.rewind().map_err(|error| internal(&error))?;
    Ok(BufReader::new(input))
}

fn decoder<'a>(
    input: impl BufRead + Seek + 'a,
    format: ImageFormat,
    request: &Request,
) -> Result<impl ImageDecoder + 'a, ParseFailure> {
    let mut reader = ImageReader::with_format(input, format);
    reader.limits(limits(request));
    reader.into_decoder().map_err(|error| refused(&error))
}

fn limits(request: &Request) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(request.max_decoded_bytes);
    limits
}

fn smaller(picture: DynamicImage, side: u32) -> DynamicImage {
    if picture.width() <= side && picture.height() <= side {
        return picture;
    }
    picture.thumbnail(side, side)
}

fn shows_through(picture: &DynamicImage) -> bool {
    picture.color().has_alpha()
        && picture
            .to_rgba8()
            .pixels()
            .any(|pixel| pixel.0[3] < u8::MAX)
}

fn perceptual_hash(picture: &DynamicImage) -> String {
    let hasher = HasherConfig::new()
        .hash_size(HASH_SIDE, HASH_SIDE)
        .hash_alg(HashAlg::Gradient)
        .to_hasher();
    hasher
        .hash_image(picture)
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The name of a picture of this side that is shown to providers.
pub(crate) fn view_name(side: u32) -> String {
    format!("{VIEW_BLOB}{side}")
}

/// A picture as it is shown to providers: upright, on white where something shows through.
fn view(
    picture: &DynamicImage,
    side: u32,
    orientation: Orientation,
) -> Result<(String, Vec<u8>), ParseFailure> {
    let mut small = if picture.width() <= side && picture.height() <= side {
        picture.clone()
    } else {
        picture.thumbnail(side, side)
    };
    small.apply_orientation(orientation);
    let shown = if small.color().has_alpha() {
        on_white(&small.to_rgba8())
    } else {
        small.to_rgb8()
    };
    Ok((view_name(side), jpeg_of(&shown)?))
}

fn on_white(picture: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0;
        let (most, alpha) = (u16::from(u8::MAX), u16::from(alpha));
        Rgb([red, green, blue].map(|colour| {
            let shown = (u16::from(colour) * alpha + most * (most - alpha)) / most;
            u8::try_from(shown).unwrap_or(u8::MAX)
        }))
    })
}

fn jpeg_of(picture: &RgbImage) -> Result<Vec<u8>, ParseFailure> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode_image(picture)
        .map_err(|error| internal(&error))?;
    Ok(bytes)
}

fn encoded(picture: &DynamicImage, transparent: bool) -> Result<(String, Vec<u8>), ParseFailure> {
    if transparent {
        let mut bytes = Vec::new();
        DynamicImage::from(picture.to_rgba8())
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .map_err(|error| internal(&error))?;
        return Ok((PNG_BLOB.to_owned(), bytes));
    }
    Ok((JPEG_BLOB.to_owned(), jpeg_of(&picture.to_rgb8())?))
}

/// Whether there is a second frame. A file that cannot be told counts as one picture: its first frame has been decoded.
fn is_animated(input: impl BufRead + Seek, format: ImageFormat, request: &Request) -> bool {
    match format {
        ImageFormat::Gif => GifDecoder::new(input).is_ok_and(|mut decoder| {
            decoder.set_limits(limits(request)).is_ok()
                && decoder.into_frames().take(2).filter(Result::is_ok).count() == 2
        }),
        ImageFormat::WebP => WebPDecoder::new(input).is_ok_and(|decoder| decoder.has_animation()),
        ImageFormat::Png => {
            PngDecoder::new(input).is_ok_and(|decoder| decoder.is_apng().unwrap_or(false))
        }
        _ => false,
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "jpeg",
        ImageFormat::WebP => "webp",
        other => other.extensions_str().first().copied().unwrap_or("unknown"),
    }
}

fn refused(error: &ImageError) -> ParseFailure {
    let words = error.to_string();
    let reason = match error {
        // Only words tell a size that no number of this machine holds.
        _ if words.contains("too large") || words.contains("size limits exceeded") => {
            Reason::ImageTooLarge
        }
        ImageError::Limits(_) => Reason::ImageTooLarge,
        ImageError::Unsupported(_) => Reason::UnsupportedImage,
        _ => Reason::CorruptImage,
    };
    ParseFailure::new(reason, words)
}

fn internal(error: &dyn std::error::Error) -> ParseFailure {
    ParseFailure::new(Reason::Internal, error.to_string())
}
