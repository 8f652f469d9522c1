//! What a signature must cover. s3s verifies that a signature fits the headers it names, and not that it names all those
//! that change what a request does. That is checked here, before s3s sees the request: whoever was given a URL that puts
//! one object could else add `x-amz-copy-source` and read any other.

use caudal_connections::Proof;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap};
use http::{HeaderName, HeaderValue, Uri};
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Error, S3Result, s3_error};

/// Headers of these names tell S3 what to do, and so have to be signed.
const INSTRUCTION: &str = "x-amz-";
/// They make a copy of a PUT.
const COPY: &str = "x-amz-copy-source";
/// How an Authorization header of version 4 begins.
const VERSION_4: &str = "AWS4-HMAC-SHA256 ";

/// Refuses what a signature does not cover, a copy by whoever has but a URL, and signatures of version 2: they fix no
/// length. Whether a signature is right remains to be seen.
pub(super) fn check(uri: &Uri, headers: &HeaderMap) -> S3Result<()> {
    let signature = Signature::of(uri, headers)?;
    let mut unsigned = headers
        .iter()
        .filter(|(name, value)| is_instruction(name) && !signature.covers(name, value))
        .map(|(name, _)| name.as_str());
    if let Some(name) = unsigned.next() {
        return Err(s3_error!(
            AccessDenied,
            "There were headers present in the request which were not signed: {name}"
        ));
    }
    if signature.is_in_query && headers.keys().any(|name| name.as_str().starts_with(COPY)) {
        return Err(s3_error!(AccessDenied, "A presigned URL does not copy"));
    }
    Ok(())
}

/// The length that was sent to a URL whose signature fixes it; none where it does not.
pub(super) fn length_it_fixes<'headers>(
    uri: &Uri,
    headers: &'headers HeaderMap,
) -> Option<&'headers str> {
    let signature = Signature::of(uri, headers).ok()?;
    let sent = headers.get(CONTENT_LENGTH)?;
    let fixes = signature.is_in_query && signature.covers(&CONTENT_LENGTH, sent);
    sent.to_str().ok().filter(|_| fixes)
}

/// A region that a signature names and no store has, such as the `US` of s3cmd: S3 answers with its own, and s3cmd signs
/// again for that.
pub(super) fn region_of_nobody(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let mut fields = header.strip_prefix(VERSION_4)?.split(',');
    let credential = fields.find_map(|field| field.trim().strip_prefix("Credential="))?;
    // KEY/DATE/REGION/s3/aws4_request
    let region = credential.rsplit('/').nth(2)?;
    let is_of_a_region =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (region.is_empty() || !region.bytes().all(is_of_a_region)).then_some(region)
}

/// Lets in whoever has a good signature, as s3s found it, and lets their connection stay.
pub(super) struct OnlySigned;

#[async_trait::async_trait]
impl S3Access for OnlySigned {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        if let Some(proof) = request.extensions_mut().get::<Proof>() {
            proof.give();
        }
        Ok(())
    }
}

fn is_instruction(name: &HeaderName) -> bool {
    name.as_str().starts_with(INSTRUCTION)
}

/// What a request says of its signature, read as s3s reads it. Where that can be read in two ways it covers nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Signature {
    is_in_query: bool,
    /// The names that it covers, as they are written: s3s leaves out those that are not in lower case.
    names: Vec<String>,
}

impl Signature {
    fn of(uri: &Uri, headers: &HeaderMap) -> S3Result<Signature> {
        let mut is_in_query = false;
        let mut lists = Vec::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match name.as_ref() {
                "Signature" => return Err(unsupported()),
                "X-Amz-Signature" => is_in_query = true,
                "X-Amz-SignedHeaders" => lists.push(value.into_owned()),
                _ => {}
            }
        }
        let mut in_header = Vec::new();
        for header in headers.get_all(AUTHORIZATION) {
            let header = header.to_str().map_err(|_| unsupported())?;
            let fields = header.strip_prefix(VERSION_4).ok_or_else(unsupported)?;
            let named = fields
                .split(',')
                // No space is taken off the end: to s3s it is part of the last name.
                .filter_map(|field| field.trim_start().strip_prefix("SignedHeaders="));
            in_header.extend(named.map(str::to_owned));
        }
        // With both, s3s verifies the query's.
        if !is_in_query {
            lists = in_header;
        }
        let names = match lists.as_slice() {
            [names] => names.split(';').map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Ok(Signature { is_in_query, names })
    }

    /// s3s does not see a value that is not UTF-8, so its signature says nothing of it.
    fn covers(&self, name: &HeaderName, value: &HeaderValue) -> bool {
        self.names.iter().any(|covered| covered == name.as_str())
            && std::str::from_utf8(value.as_bytes()).is_ok()
    }
}

fn unsupported() -> S3Error {
    s3_error!(
        InvalidRequest,
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PRESIGNED: &str = "/b/k?X-Amz-Signature=s&X-Amz-SignedHeaders=host%3Bx-amz-acl";
    const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=k/20130524/us-east-1/s3/aws4_request, \
                          SignedHeaders=host;x-amz-acl, Signature=s";

    /// The code it is refused with, or OK.
    fn checked(uri: &str, headers: &[(&str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        match check(&uri.parse().unwrap(), &map) {
            Ok(()) => "OK".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    #[test]
    fn a_region_that_no_store_has_is_told_from_one_that_some_store_has() {
        let of = |credential: &str| {
            let value = format!("AWS4-HMAC-SHA256 Credential={credential},SignedHeaders=host");
            let map = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            region_of_nobody(&map).map(str::to_owned)
        };
        assert_eq!(of("key/20261130/US/s3/aws4_request").as_deref(), Some("US"));
        assert_eq!(of("key/20261130//s3/aws4_request").as_deref(), Some(""));
        assert_eq!(of("key/20261130/eu-west-3/s3/aws4_request"), None);
        assert_eq!(region_of_nobody(&HeaderMap::new()), None);
    }

    #[test]
    fn a_header_that_tells_s3_what_to_do_is_signed_or_refused() {
        let signed = |header| checked("/b/k", &[("authorization", SIGNED), header]);
        for name in ["x-amz-acl", "X-Amz-ACL"] {
            assert_eq!(checked(PRESIGNED, &[(name, "private")]), "OK");
            assert_eq!(signed((name, "private")), "OK");
        }
        for name in [
            "x-amz-copy-source",
            "X-Amz-Copy-Source",
            "x-amz-meta-a",
            "x-amz-acl2",
        ] {
            assert_eq!(checked(PRESIGNED, &[(name, "b/other")]), "AccessDenied");
            assert_eq!(signed((name, "b/other")), "AccessDenied");
        }
        assert_eq!(checked(PRESIGNED, &[("content-type", "a/b")]), "OK");
        assert_eq!(
            checked("/b/k", &[("x-amz-acl", "private")]),
            "AccessDenied",
            "nothing is signed"
        );
    }

    #[test]
    fn a_url_does_not_copy_though_the_copy_is_signed() {
        let uri = "/b/k?X-Amz-Signature=s&X-Amz-SignedHeaders=host;x-amz-copy-source";
        let copy = ("x-amz-copy-source", "b/other");
        assert_eq!(checked(uri, &[copy]), "AccessDenied");
        let signed = SIGNED.replace("x-amz-acl", "x-amz-copy-source");
        assert_eq!(checked("/b/k", &[("authorization", &signed), copy]), "OK");
        // s3s goes by the query where there are both.
        assert_eq!(
            checked(PRESIGNED, &[("authorization", &signed), copy]),
            "AccessDenied"
        );
    }

    /// In each of these s3s verifies a signature that does not cover the copy.
    #[test]
    fn a_list_that_s3s_reads_in_another_way_covers_nothing() {
        let copy = ("x-amz-copy-source", "b/other");
        let lists = [
            "SignedHeaders=host;X-Amz-Copy-Source, ",
            "SignedHeaders=host;x-amz-copy-source , ",
            "SignedHeaders=x-amz-copy-source, SignedHeaders=host, ",
        ];
        for list in lists {
            let header = SIGNED.replace("SignedHeaders=host;x-amz-acl, ", list);
            let code = checked("/b/k", &[("authorization", &header), copy]);
            assert_eq!(code, "AccessDenied", "{list}");
        }
        let before = SIGNED.replacen(' ', ",SignedHeaders=x-amz-copy-source, ", 1);
        assert_eq!(
            checked("/b/k", &[("authorization", &before), copy]),
            "InvalidRequest"
        );
        let twice = [("authorization", SIGNED), ("authorization", SIGNED)];
        let acl = ("x-amz-acl", "private");
        assert_eq!(checked("/b/k", &[twice[0], twice[1], acl]), "AccessDenied");
        for uri in [
            "/b/k?X-Amz-Signature=s&X-Amz-SignedHeaders=host&X-Amz-SignedHeaders=x-amz-acl",
            "/b/k?X-Amz-Signature=s&X-Amz-SignedHeaders=host;X-Amz-Acl",
            "/b/k?X-Amz-Signature=s&x-amz-signedheaders=host;x-amz-acl",
            "/b/k?X%2DAmz%2dSignature=s",
        ] {
            assert_eq!(checked(uri, &[acl]), "AccessDenied", "{uri}");
        }
        let header = ("authorization", SIGNED);
        let uri = "/b/k?X%2DAmz%2dSignature=s&X-Amz-SignedHeaders=host";
        assert_eq!(checked(uri, &[header, acl]), "AccessDenied");
    }

    #[test]
    fn a_value_that_s3s_does_not_see_is_not_signed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-acl", HeaderValue::from_bytes(b"priv\xe1te").unwrap());
        assert!(check(&PRESIGNED.parse().unwrap(), &headers).is_err());
    }

    #[test]
    fn signatures_of_version_2_are_not_taken() {
        let by_url = "/b/k?AWSAccessKeyId=k&Expires=4102444800&Signature=s";
        assert_eq!(checked(by_url, &[]), "InvalidRequest");
        let by_both = format!("{PRESIGNED}&Signature=s");
        assert_eq!(checked(&by_both, &[]), "InvalidRequest");
        for header in ["AWS k:s", "Basic azpz"] {
            let headers = [("authorization", header)];
            assert_eq!(checked("/b/k", &headers), "InvalidRequest");
            assert_eq!(checked(PRESIGNED, &headers), "InvalidRequest");
        }
    }
}
