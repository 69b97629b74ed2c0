"""The system calls that an ordinary program needs, with their numbers.

Each entry is name:x86_64:aarch64, with - where an architecture lacks it. All others are refused.
"""

from __future__ import annotations

from typing import Final

_ALLOWED: Final = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69
pwritev:296:70 preadv2:327:286 pwritev2:328:287 lseek:8:62 close:3:57 close_range:436:436
dup:32:23 dup2:33:- dup3:292:24 pipe:22:- pipe2:293:59 poll:7:- ppoll:271:73 select:23:-
pselect6:270:72 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:-
epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284:- eventfd2:290:19 timerfd_create:283:85
timerfd_settime:286:86 timerfd_gettime:287:87 signalfd:282:- signalfd4:289:74
stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291
access:21:- faccessat:269:48 faccessat2:439:439 readlink:89:- readlinkat:267:78 getdents:78:-
getdents64:217:61 mkdir:83:- mkdirat:258:34 rmdir:84:- unlink:87:- unlinkat:263:35 rename:82:-
renameat:264:38 renameat2:316:276 symlink:88:- symlinkat:266:36 ftruncate:77:46 fallocate:285:47
fsync:74:82 fdatasync:75:83 flock:73:32 getcwd:79:17 chdir:80:49 fchdir:81:50 umask:95:166
fchmod:91:52 statfs:137:43 fstatfs:138:44 sendfile:40:71 copy_file_range:326:285 splice:275:76
tee:276:77 fadvise64:221:223 readahead:187:213 sync_file_range:277:84 mmap:9:222 mprotect:10:226
munmap:11:215 mremap:25:216 brk:12:214 madvise:28:233 msync:26:227 mincore:27:232
membarrier:324:283 execve:59:221 fork:57:- vfork:58:- exit:60:93 exit_group:231:94 wait4:61:260
waitid:247:95 getpid:39:172 getppid:110:173 gettid:186:178 getuid:102:174 geteuid:107:175
getgid:104:176 getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158
getpgrp:111:- getpgid:121:155 getsid:124:156 setpgid:109:154 setsid:112:157
set_tid_address:218:96 set_robust_list:273:99 rseq:334:293 futex:202:98 futex_waitv:449:449
futex_wake:454:454 futex_wait:455:455 futex_requeue:456:456 sched_yield:24:124
sched_getaffinity:204:123 sched_getparam:143:121 sched_getscheduler:145:120
sched_get_priority_max:146:125 sched_get_priority_min:147:126 sched_rr_get_interval:148:127
setrlimit:160:164 getrlimit:97:163 getrusage:98:165 times:100:153 sysinfo:99:179 uname:63:160
getcpu:309:168 getpriority:140:141 capget:125:90 arch_prctl:158:- rt_sigaction:13:134
rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigsuspend:130:133
rt_sigtimedwait:128:137 sigaltstack:131:132 pause:34:- alarm:37:- setitimer:38:103
getitimer:36:102 timer_create:222:107 timer_settime:223:110 timer_gettime:224:108
timer_getoverrun:225:109 timer_delete:226:111 nanosleep:35:101 clock_nanosleep:230:115
clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:-
restart_syscall:219:128 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212
sendmmsg:307:269 recvmmsg:299:243 shutdown:48:210 getsockname:51:204 getpeername:52:205
getsockopt:55:209 setsockopt:54:208 getrandom:318:278
"""
_CHECKED: Final = """
open:2:- openat:257:56 creat:85:-
chmod:90:- fchmodat:268:53 fchmodat2:452:452 truncate:76:45 utime:132:- utimes:235:-
futimesat:261:- utimensat:280:88 kill:62:129 tkill:200:130 tgkill:234:131 clone:56:220
clone3:435:435 socketpair:53:199 prlimit64:302:261 prctl:157:167 ioctl:16:29 fcntl:72:25
socket:41:198 openat2:437:437
"""


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = {"x86_64": 1, "aarch64": 2}[machine]
    entries = (entry.split(":") for entry in table.split())
    return {entry[0]: int(entry[column]) for entry in entries if entry[column] != "-"}


def allowed(machine: str) -> dict[str, int]:
    """Calls that are allowed whatever their arguments."""
    return _numbers(_ALLOWED, machine)


def checked(machine: str) -> dict[str, int]:
    """Calls whose arguments decide; `seccomp.py` has the rule of each."""
    return _numbers(_CHECKED, machine)
