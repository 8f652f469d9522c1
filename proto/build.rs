//! Compiles the protos without a system protoc: protox parses them, tonic generates.

use std::path::{Path, PathBuf};

fn protos_below(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            protos_below(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            found.push(path);
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=caudal");
    println!("cargo:rerun-if-changed=google");
    let mut protos = Vec::new();
    protos_below(Path::new("caudal"), &mut protos)?;
    protos.sort();
    let mut descriptors = protox::compile(&protos, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("caudal.bin"), prost_bytes(&descriptors))?;
    // Packages are modules of this crate, `caudal` itself is its root: what is not below it is compiled by itself.
    let longrunning = protox::compile(["google/longrunning/operations.proto"], ["."])?;
    descriptors
        .file
        .retain(|file| file.package() != "google.longrunning");
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .extern_path(".google.longrunning", "crate::longrunning")
        .bytes(".caudal.mesh.v1")
        .compile_fds(descriptors)?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(longrunning)?;
    Ok(())
}

fn prost_bytes(descriptors: &impl protox::prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
