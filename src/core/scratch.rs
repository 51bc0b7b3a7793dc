//! The buffer that all transports of a loop receive small reads into.

/// Its size, in bytes.
const SCRATCH: usize = 64 * 1024;

/// Memory to receive into, aligned to a page: the kernel copies up to twice as slowly into addresses that are 16
/// past a multiple of 64, which is what a large allocation gets.
pub struct Scratch(Box<[Page]>);

#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([std::mem::MaybeUninit<u8>; 4096]);

impl Scratch {
    pub fn new() -> Self {
        Self(vec![Page([std::mem::MaybeUninit::uninit(); 4096]); SCRATCH / 4096].into_boxed_slice())
    }

    pub fn as_mut_slice(&mut self) -> &mut [std::mem::MaybeUninit<u8>] {
        let len = self.0.len() * 4096;
        // SAFETY: pages are contiguous arrays of possibly uninitialised bytes, `len` of them in all.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}
