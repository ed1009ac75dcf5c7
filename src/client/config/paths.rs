//! Where the profile of a user is.

use std::path::PathBuf;

use super::Environment;

/// What decides about folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Platform {
    Windows,
    MacOs,
    Other,
}

impl Platform {
    pub(super) const CURRENT: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_os = "macos") {
        Self::MacOs
    } else {
        Self::Other
    };

    fn join(self, folder: &str, names: &[&str]) -> String {
        let (separator, ends): (_, &[char]) = match self {
            Self::Windows => ("\\", &['\\', '/']),
            Self::MacOs | Self::Other => ("/", &['/']),
        };
        let mut path = folder.trim_end_matches(ends).to_owned();
        for name in names {
            path.push_str(separator);
            path.push_str(name);
        }
        path
    }
}

/// `caracal.toml` in the folder of the configuration, where the environment tells one.
pub(super) fn default_profile(platform: Platform, environment: &Environment) -> Option<PathBuf> {
    let directory = default_directory(platform, environment)?;
    Some(platform.join(&directory, &["caracal.toml"]).into())
}

fn default_directory(platform: Platform, environment: &Environment) -> Option<String> {
    let get = |name: &str| environment.get(name);
    let below = |name: &str, names: &[&str]| Some(platform.join(get(name)?, names));
    let own =
        environment.owned("CARACAL_CONFIG_HOME").or_else(|| below("XDG_CONFIG_HOME", &["caracal"]));
    own.or_else(|| match platform {
        Platform::Windows => below("APPDATA", &["Caracal"])
            .or_else(|| below("LOCALAPPDATA", &["Caracal"]))
            .or_else(|| below("USERPROFILE", &["AppData", "Roaming", "Caracal"])),
        Platform::MacOs => below("HOME", &["Library", "Application Support", "Caracal"]),
        Platform::Other => below("HOME", &[".config", "caracal"]),
    })
}

#[cfg(test)]
mod tests {
    use super::{Platform::*, *};

    #[test]
    fn folders() {
        let mut all = vec![
            ("CARACAL_CONFIG_HOME", "/own/"),
            ("XDG_CONFIG_HOME", "/xdg"),
            ("APPDATA", r"C:\Users\u\AppData\Roaming"),
            ("LOCALAPPDATA", r"C:\Users\u\AppData\Local\"),
            ("USERPROFILE", r"C:\Users\u"),
            ("HOME", "/home/u"),
        ];
        let mut without = |name: &str| {
            all.retain(|(known, _)| *known != name);
            Environment::from_iter(all.iter().copied())
        };
        let profile = |platform, environment: &Environment| {
            default_profile(platform, environment).map(|path| path.display().to_string())
        };
        let home = Some("/home/u/.config/caracal/caracal.toml".to_owned());
        let library = Some("/home/u/Library/Application Support/Caracal/caracal.toml".to_owned());
        let rows = [
            ("", r"/own\caracal.toml", "/own/caracal.toml"),
            ("CARACAL_CONFIG_HOME", r"/xdg\caracal\caracal.toml", "/xdg/caracal/caracal.toml"),
            ("XDG_CONFIG_HOME", r"C:\Users\u\AppData\Roaming\Caracal\caracal.toml", ""),
            ("APPDATA", r"C:\Users\u\AppData\Local\Caracal\caracal.toml", ""),
            ("LOCALAPPDATA", r"C:\Users\u\AppData\Roaming\Caracal\caracal.toml", ""),
        ];
        for (name, windows, elsewhere) in rows {
            let environment = without(name);
            assert_eq!(profile(Windows, &environment).as_deref(), Some(windows), "{name}");
            let (mac, other) = match elsewhere {
                "" => (library.clone(), home.clone()),
                path => (Some(path.to_owned()), Some(path.to_owned())),
            };
            assert_eq!(profile(MacOs, &environment), mac, "{name}");
            assert_eq!(profile(Other, &environment), other, "{name}");
        }
        // HOME is no home on Windows, USERPROFILE none elsewhere.
        assert_eq!(profile(Windows, &without("USERPROFILE")), None);
        let windows_only = Environment::from_iter([("USERPROFILE", "u"), ("APPDATA", "a")]);
        assert_eq!(profile(MacOs, &windows_only), None);
        assert_eq!(profile(Other, &windows_only), None);
    }

    #[test]
    fn the_root_folder_is_a_folder() {
        let environment = Environment::from_iter([("HOME", "/")]);
        assert_eq!(
            default_profile(Other, &environment),
            Some("/.config/caracal/caracal.toml".into())
        );
    }
}
