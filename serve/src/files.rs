//! Files that appear in a second place.

use std::io;
use std::path::Path;

/// Makes `target` a link to `source`, or a copy where there are no links.
pub(crate) fn link(source: &Path, target: &Path) -> io::Result<()> {
    let source = std::path::absolute(source)?;
    #[cfg(unix)]
    if std::os::unix::fs::symlink(&source, target).is_ok() {
        return Ok(());
    }
    std::fs::copy(&source, target).map(|_| ())
}
