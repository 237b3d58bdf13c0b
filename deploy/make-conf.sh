#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# make-conf.sh THERMOCLINE: the installed thermocline.conf: the reference of all settings, with those set that the units need.
set -eu
"$1" config reference | sed \
    -e 's|^# model =$|model = /usr/share/thermocline/models/demo|' \
    -e 's|^# cache-dir =$|cache-dir = /var/cache/thermocline|' \
    -e 's|^# arena-dir =$|arena-dir = /dev/shm/thermocline|' \
    -e 's|^# engine =$|engine = ipc:///run/thermocline/engine|' \
    -e 's|^# experts =$|experts = ipc:///run/thermocline/experts|'
