//! Files that are, or may hold, secrets: read through one handle, so that the file whose mode was
//! looked at is the file that is read.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    path::Path,
};

use super::Secret;

/// A file's text, and who may get at it.
pub(super) struct Opened {
    pub(super) text: String,
    mode: u32,
}

impl Opened {
    /// Whether group or others have any bit.
    pub(super) fn is_open_to_others(&self) -> bool {
        self.mode & 0o077 != 0
    }

    /// Whether group or others may write.
    pub(super) fn is_writable_by_others(&self) -> bool {
        self.mode & 0o022 != 0
    }
}

/// Reads a file; a link is followed. A failure comes as a sentence that names the file.
pub(super) fn open(path: &Path) -> Result<Opened, String> {
    let read = || -> io::Result<Opened> {
        let mut file = File::open(path)?;
        let mode = permissions(&file.metadata()?);
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(Opened { text, mode })
    };
    read().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{} does not exist", path.display()),
        io::ErrorKind::InvalidData => format!("{} is not UTF-8", path.display()),
        kind => format!("{} cannot be read: {kind}", path.display()),
    })
}

#[cfg(unix)]
fn permissions(metadata: &Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt as _;

    metadata.mode()
}

/// Only Unix has the bits.
#[cfg(not(unix))]
fn permissions(_: &Metadata) -> u32 {
    0
}

/// The secret in a file that nobody but its owner can get at.
pub(super) fn read(path: &Path) -> Result<Secret, String> {
    let file = open(path)?;
    if file.is_open_to_others() {
        return Err(format!(
            "the secret file {} must be accessible to its owner only (chmod 600)",
            path.display()
        ));
    }
    match file.text.trim() {
        "" => Err(format!("the secret file {} is empty", path.display())),
        secret => Ok(Secret::new(secret)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::config::tests::Folder;

    #[test]
    fn secrets_are_trimmed() {
        let folder = Folder::new();
        for mode in [0o600, 0o400] {
            let path = folder.file("s", " \tfile secret\r\n\n", mode);
            assert_eq!(read(&path), Ok(Secret::new("file secret")), "{mode:o}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn any_bit_of_group_and_others_is_one_too_many() {
        let folder = Folder::new();
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            let path = folder.file("s", "s3cr3t", 0o600 | bit);
            let problem = read(&path).unwrap_err();
            assert!(problem.contains("owner only"), "{bit:o}: {problem}");
            assert!(problem.contains(&path.display().to_string()) && !problem.contains("s3cr3t"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_as_good_as_its_target() {
        let folder = Folder::new();
        let target = folder.file("target", "s3cr3t", 0o640);
        let link = folder.path("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(read(&link).unwrap_err().contains("owner only"));
        folder.file("target", "s3cr3t", 0o600);
        assert_eq!(read(&link), Ok(Secret::new("s3cr3t")));
    }

    #[test]
    fn nothing_to_read() {
        let folder = Folder::new();
        let none = folder.path("none");
        assert_eq!(read(&none), Err(format!("{} does not exist", none.display())));
        let blank = folder.file("blank", " \n", 0o600);
        assert_eq!(read(&blank), Err(format!("the secret file {} is empty", blank.display())));
        let bytes = folder.path("bytes");
        std::fs::write(&bytes, b"s3cr3t\xff").unwrap();
        assert_eq!(read(&bytes), Err(format!("{} is not UTF-8", bytes.display())));
        #[cfg(unix)]
        assert!(read(&folder.path(".")).unwrap_err().contains("cannot be read"));
    }
}
