//! The functions of hydra.h, hydra_export.h and hydra_files.h that the crate calls.

use std::ffi::{c_char, c_double, c_int, c_void};

#[repr(C)]
pub struct Bundle {
    _private: [u8; 0],
}

#[repr(C)]
pub struct Error {
    pub status: c_int,
    pub text: [c_char; 512],
}

#[repr(C)]
pub struct TaskInfo {
    pub struct_size: usize,
    pub name: *const c_char,
    pub base_model: *const c_char,
    pub format: *const c_char,
    pub dtype: *const c_char,
    pub error: c_double,
    pub lossless: c_int,
    pub modules: usize,
    pub tensors: usize,
    pub carried: usize,
    pub stream_bytes: u64,
    pub harm_likely: c_double,
    pub carried_bytes: u64,
}

#[repr(C)]
pub struct ModuleInfo {
    pub struct_size: usize,
    pub path: *const c_char,
    pub kind: *const c_char,
    pub layout: *const c_char,
    pub m: u32,
    pub n: u32,
}

#[repr(C)]
pub struct Pair {
    pub index: usize,
    pub module: *const ModuleInfo,
    pub k: u32,
    pub dtype: c_int,
    pub b: *const c_void,
    pub a: *const c_void,
}

#[repr(C)]
pub struct GgufOptions {
    pub struct_size: usize,
    pub architecture: *const c_char,
    pub blocks: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub dtype: c_int,
    pub sync: c_int,
}

pub const USAGE: c_int = 10;
pub const F32: c_int = 3;
pub type TakePair = extern "C" fn(*mut c_void, *const Pair) -> c_int;

extern "C" {
    pub fn hydra_status_name(status: c_int) -> *const c_char;
    pub fn hydra_open_path(
        path: *const c_char,
        options: *const c_void,
        bundle: *mut *mut Bundle,
        error: *mut Error,
    ) -> c_int;
    pub fn hydra_open_memory(
        data: *const c_void,
        size: usize,
        options: *const c_void,
        bundle: *mut *mut Bundle,
        error: *mut Error,
    ) -> c_int;
    pub fn hydra_close(bundle: *mut Bundle);
    pub fn hydra_task_count(bundle: *const Bundle) -> usize;
    pub fn hydra_base_model(bundle: *const Bundle) -> *const c_char;
    pub fn hydra_describe(
        bundle: *const Bundle,
        task: usize,
        info: *mut TaskInfo,
        error: *mut Error,
    ) -> c_int;
    pub fn hydra_find(
        bundle: *const Bundle,
        name: *const c_char,
        task: *mut usize,
        error: *mut Error,
    ) -> c_int;
    pub fn hydra_keep_core(bundle: *mut Bundle, most: usize, error: *mut Error) -> c_int;
    pub fn hydra_pairs(
        bundle: *mut Bundle,
        task: usize,
        dtype: c_int,
        take: TakePair,
        user: *mut c_void,
        error: *mut Error,
    ) -> c_int;
    pub fn hydra_verify(bundle: *mut Bundle, error: *mut Error) -> c_int;
    pub fn hydra_write_peft_folder(
        bundle: *mut Bundle,
        task: usize,
        options: *const c_void,
        folder: *const c_char,
        error: *mut Error,
    ) -> c_int;
    pub fn hydra_gguf_base(
        json: *const c_char,
        size: usize,
        options: *const c_void,
        gguf: *mut GgufOptions,
        error: *mut Error,
    ) -> c_int;
    pub fn hydra_write_gguf_file(
        bundle: *mut Bundle,
        task: usize,
        options: *const GgufOptions,
        file: *const c_char,
        error: *mut Error,
    ) -> c_int;
}
