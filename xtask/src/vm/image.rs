//! An initramfs: a cpio archive of the kind that the kernel unpacks (`newc`).
//!
//! The kernel's documentation has the format: `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// Modes of files, as `stat` has them.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// What ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that is being written.
pub(super) struct Image {
    bytes: Vec<u8>,
    entries: u32,
}

impl Image {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), entries: 0 }
    }

    /// A folder; those above it must come before.
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, (0, 0), &[]);
    }

    /// A file that anyone may read and run.
    pub(super) fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// A character device. The kernel opens `dev/console` for init, and has no `/dev` of its own in there.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let name_size = path.len() + 1;
        self.bytes.extend_from_slice(b"070701");
        let links = 1;
        let fields: [usize; 13] = [
            self.entries as usize,
            mode as usize,
            0,
            0,
            links,
            0,
            content.len(),
            0,
            0,
            major as usize,
            minor as usize,
            name_size,
            0,
        ];
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Names and contents begin on multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_kernel_unpacks() {
        let mut image = Image::new();
        image.folder("bin");
        image.program("bin/x", b"hello");
        image.device("dev", 5, 1);
        let bytes = image.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let folder = "070701\
                      00000001\
                      000041ed\
                      0000000000000000\
                      00000001\
                      00000000\
                      00000000\
                      0000000000000000\
                      0000000000000000\
                      00000004\
                      00000000bin\0\0\0";
        assert!(text.starts_with(folder), "{text:?}");
        let file = &text[folder.len()..];
        assert_eq!(&file[..22], "07070100000002000081ed");
        assert_eq!(&file[54..62], "00000005", "the size of the content");
        // A header of 110, the name with its end, and padding up to a multiple of four.
        assert_eq!(&file[110..124], "bin/x\0hello\0\0\0");
        let device = &file[124..];
        assert_eq!(&device[..22], "0707010000000300002180");
        assert_eq!(&device[78..94], "0000000500000001");
        assert!(text.trim_end_matches('\0').ends_with(TRAILER));
    }
}
