//! `fsck`, `backup`, `restore`, and records that rot: on the directories of real nodes after real mail.

mod backups;
mod forge;
mod planted;
mod rot;
mod rows;
