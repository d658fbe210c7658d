//! Reads hydraopt bundles: many LoRA adapters ("tasks") of one base model in one file.
//!
//! ```no_run
//! let mut bundle = hydraopt::Bundle::open("phone.hydra.safetensors")?;
//! for task in bundle.tasks() {
//!     println!("{}: {} modules", task.name, task.modules);
//! }
//! bundle.write_peft("numbers-de", "numbers-de")?;
//! # Ok::<(), hydraopt::Error>(())
//! ```

mod ffi;

use std::any::Any;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::path::Path;
use std::{fmt, ptr, slice};

/// An error of libhydra.
#[derive(Debug)]
pub struct Error {
    /// The status in a word, such as "damaged" or "not there".
    pub status: String,
    /// The problem, its place, and what to do.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;

/// Facts about a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub name: String,
    pub base_model: Option<String>,
    /// Number of low-rank modules.
    pub modules: usize,
    /// Relative Frobenius error of the weights, as measured when the bundle was made.
    pub error: f64,
    /// Expected share of answers that change, if it was measured.
    pub harm: Option<f64>,
    /// Bytes of the task in the file, without the core that all tasks share.
    pub bytes: u64,
}

/// One module of a task: it changes the weight of the base model by `B A`. Matrices are row-major.
#[derive(Debug)]
pub struct Factors<'a> {
    /// Path of the module in the base model.
    pub path: &'a str,
    pub rows: usize,
    pub columns: usize,
    pub rank: usize,
    /// B (rows, rank), with the scale of the adapter.
    pub b: &'a [f32],
    /// A (rank, columns).
    pub a: &'a [f32],
}

/// An open bundle. Dropping it closes the file and frees the memory.
#[derive(Debug)]
pub struct Bundle {
    raw: *mut ffi::Bundle,
    _bytes: Vec<u8>, // of from_bytes: the library reads them until the bundle is closed
}

// SAFETY: nothing in libhydra is global or bound to a thread. It is not Sync: one thread at a time.
unsafe impl Send for Bundle {}

impl Drop for Bundle {
    fn drop(&mut self) {
        unsafe { ffi::hydra_close(self.raw) }
    }
}

impl Bundle {
    /// Opens a bundle file, or a folder of a core and task files.
    pub fn open(path: impl AsRef<Path>) -> Result<Bundle> {
        let path = path_text(path.as_ref())?;
        let mut raw = ptr::null_mut();
        call(|error| unsafe { ffi::hydra_open_path(path.as_ptr(), ptr::null(), &mut raw, error) })?;
        Ok(Bundle {
            raw,
            _bytes: Vec::new(),
        })
    }

    /// Opens the bytes of a bundle file.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Bundle> {
        let bytes = bytes.into();
        let mut raw = ptr::null_mut();
        call(|error| unsafe {
            let data = bytes.as_ptr().cast();
            ffi::hydra_open_memory(data, bytes.len(), ptr::null(), &mut raw, error)
        })?;
        Ok(Bundle { raw, _bytes: bytes })
    }

    /// Returns the name of the base model, if the bundle states it.
    pub fn base_model(&self) -> Option<String> {
        unsafe { text(ffi::hydra_base_model(self.raw)) }
    }

    /// Returns facts about every task, by name.
    pub fn tasks(&self) -> Vec<Task> {
        (0..unsafe { ffi::hydra_task_count(self.raw) })
            .map(|index| self.describe(index))
            .collect()
    }

    /// Decodes what all tasks share once and keeps it, so that switching tasks is fast.
    pub fn keep_core(&mut self) -> Result<()> {
        call(|error| unsafe { ffi::hydra_keep_core(self.raw, 0, error) })
    }

    /// Calls `take` with the factors of every module of a task, one module in memory at a time.
    pub fn read_factors(&mut self, task: &str, take: impl FnMut(Factors<'_>)) -> Result<()> {
        let task = self.find(task)?;
        let mut taker = Taker { take, panic: None };
        let function = pair_taker(&taker);
        let user: *mut c_void = ptr::addr_of_mut!(taker).cast();
        let done = call(|error| unsafe {
            ffi::hydra_pairs(self.raw, task, ffi::F32, function, user, error)
        });
        match taker.panic {
            Some(panic) => resume_unwind(panic),
            None => done,
        }
    }

    /// Writes a task as a PEFT adapter. The folder must not exist.
    pub fn write_peft(&mut self, task: &str, folder: impl AsRef<Path>) -> Result<()> {
        let task = self.find(task)?;
        let folder = path_text(folder.as_ref())?;
        call(|error| unsafe {
            let options = ptr::null();
            ffi::hydra_write_peft_folder(self.raw, task, options, folder.as_ptr(), error)
        })
    }

    /// Writes a task as a LoRA GGUF for llama.cpp. `base_config` is the text of the base model's
    /// config.json. The file must not exist.
    pub fn write_gguf(
        &mut self,
        task: &str,
        base_config: &str,
        file: impl AsRef<Path>,
    ) -> Result<()> {
        let task = self.find(task)?;
        let file = path_text(file.as_ref())?;
        // SAFETY: all members are numbers or pointers that may be zero.
        let mut options: ffi::GgufOptions = unsafe { std::mem::zeroed() };
        options.struct_size = std::mem::size_of::<ffi::GgufOptions>();
        let (json, size) = (base_config.as_ptr().cast(), base_config.len());
        call(|error| unsafe {
            ffi::hydra_gguf_base(json, size, ptr::null(), &mut options, error)
        })?;
        call(|error| unsafe {
            ffi::hydra_write_gguf_file(self.raw, task, &options, file.as_ptr(), error)
        })
    }

    /// Reads every byte and checks all checksums and streams.
    pub fn verify(&mut self) -> Result<()> {
        call(|error| unsafe { ffi::hydra_verify(self.raw, error) })
    }

    fn find(&self, name: &str) -> Result<usize> {
        let name = c_text(name)?;
        let mut task = 0;
        call(|error| unsafe { ffi::hydra_find(self.raw, name.as_ptr(), &mut task, error) })?;
        Ok(task)
    }

    fn describe(&self, index: usize) -> Task {
        // SAFETY: all members are numbers or pointers that may be zero.
        let mut info: ffi::TaskInfo = unsafe { std::mem::zeroed() };
        info.struct_size = std::mem::size_of::<ffi::TaskInfo>();
        call(|error| unsafe { ffi::hydra_describe(self.raw, index, &mut info, error) })
            .expect("the index of a task");
        Task {
            name: unsafe { text(info.name) }.unwrap_or_default(),
            base_model: unsafe { text(info.base_model) },
            modules: info.modules,
            error: info.error,
            harm: (info.harm_likely >= 0.0).then_some(info.harm_likely),
            bytes: info.stream_bytes + info.carried_bytes,
        }
    }
}

/// A function of the caller, and the panic that ended it.
struct Taker<F> {
    take: F,
    panic: Option<Box<dyn Any + Send>>,
}

fn pair_taker<F: FnMut(Factors<'_>)>(_: &Taker<F>) -> ffi::TakePair {
    take_pair::<F>
}

/// A panic must not pass through C: it stops hydra_pairs and goes on after it.
extern "C" fn take_pair<F: FnMut(Factors<'_>)>(user: *mut c_void, pair: *const ffi::Pair) -> c_int {
    // SAFETY: user is the Taker of read_factors; the pair is valid during this call.
    let (taker, pair) = unsafe { (&mut *user.cast::<Taker<F>>(), &*pair) };
    let module = unsafe { &*pair.module };
    let (rows, columns, rank) = (module.m as usize, module.n as usize, pair.k as usize);
    let factors = unsafe {
        Factors {
            path: CStr::from_ptr(module.path).to_str().unwrap_or_default(),
            rows,
            columns,
            rank,
            b: numbers(pair.b, rows * rank),
            a: numbers(pair.a, rank * columns),
        }
    };
    taker.panic = catch_unwind(AssertUnwindSafe(|| (taker.take)(factors))).err();
    taker.panic.is_some().into()
}

/// # Safety
/// `data` points to `count` floats, or is NULL if there are none.
unsafe fn numbers<'a>(data: *const c_void, count: usize) -> &'a [f32] {
    if count == 0 {
        return &[];
    }
    slice::from_raw_parts(data.cast(), count)
}

/// # Safety
/// `at` is NULL or a text that ends with a zero byte.
unsafe fn text(at: *const c_char) -> Option<String> {
    (!at.is_null()).then(|| CStr::from_ptr(at).to_string_lossy().into_owned())
}

fn usage(message: String) -> Error {
    let status = unsafe { text(ffi::hydra_status_name(ffi::USAGE)) }.unwrap_or_default();
    Error { status, message }
}

fn c_text(word: &str) -> Result<CString> {
    CString::new(word).map_err(|_| usage(format!("{word:?}: contains a zero byte")))
}

fn path_text(path: &Path) -> Result<CString> {
    c_text(
        path.to_str()
            .ok_or_else(|| usage(format!("{path:?}: not UTF-8")))?,
    )
}

/// Runs a function of libhydra and returns its error.
fn call(work: impl FnOnce(*mut ffi::Error) -> c_int) -> Result<()> {
    let mut error = ffi::Error {
        status: 0,
        text: [0; 512],
    };
    if work(&mut error) == 0 {
        return Ok(());
    }
    let [status, message] =
        unsafe { [ffi::hydra_status_name(error.status), error.text.as_ptr()].map(|at| text(at)) };
    Err(Error {
        status: status.unwrap_or_default(),
        message: message.unwrap_or_default(),
    })
}
