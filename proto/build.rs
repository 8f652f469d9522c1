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
    let descriptors = protox::compile(&protos, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("caudal.bin"), prost_bytes(&descriptors))?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .bytes(".caudal.mesh.v1")
        .compile_fds(descriptors)?;
    Ok(())
}

fn prost_bytes(descriptors: &impl protox::prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
