;; out = a x weights + bias, the one product that all of SETR is made of.
;;
;; a       (rows, inner) float32, row by row; rows is a multiple of 4
;; weights (inner, columns), laid out in panels of 8 columns: panel, inner, column
;; bias    (columns); columns is a multiple of 8, and every size is at least 1
;; out     (rows, columns), row by row
;;
;; Eight accumulators of four lanes hold a tile of 4 rows x 8 columns while one loop runs along
;; `inner`: each step loads 8 weights and one number of each row, and multiplies all with all.
(module
  (import "env" "memory" (memory 1))
  (func (export "matmul")
    (param $a i32) (param $weights i32) (param $bias i32) (param $out i32)
    (param $rows i32) (param $inner i32) (param $columns i32)
    (local $row_bytes i32) (local $out_bytes i32) (local $left i32) (local $k i32)
    (local $r0 i32) (local $r1 i32) (local $r2 i32) (local $r3 i32)
    (local $w i32) (local $to i32)
    (local $wl v128) (local $wr v128) (local $x v128) (local $bl v128) (local $br v128)
    (local $l0 v128) (local $l1 v128) (local $l2 v128) (local $l3 v128)
    (local $h0 v128) (local $h1 v128) (local $h2 v128) (local $h3 v128)

    (local.set $row_bytes (i32.mul (local.get $inner) (i32.const 4)))
    (local.set $out_bytes (i32.mul (local.get $columns) (i32.const 4)))

    (loop $panel
      (local.set $bl (v128.load (local.get $bias)))
      (local.set $br (v128.load offset=16 (local.get $bias)))
      (local.set $r0 (local.get $a))
      (local.set $to (local.get $out))
      (local.set $left (local.get $rows))

      (loop $band
        (local.set $r1 (i32.add (local.get $r0) (local.get $row_bytes)))
        (local.set $r2 (i32.add (local.get $r1) (local.get $row_bytes)))
        (local.set $r3 (i32.add (local.get $r2) (local.get $row_bytes)))
        (local.set $l0 (local.get $bl)) (local.set $h0 (local.get $br))
        (local.set $l1 (local.get $bl)) (local.set $h1 (local.get $br))
        (local.set $l2 (local.get $bl)) (local.set $h2 (local.get $br))
        (local.set $l3 (local.get $bl)) (local.set $h3 (local.get $br))
        (local.set $w (local.get $weights))
        (local.set $k (local.get $inner))

        (loop $along
          (local.set $wl (v128.load (local.get $w)))
          (local.set $wr (v128.load offset=16 (local.get $w)))
          (local.set $x (v128.load32_splat (local.get $r0)))
          (local.set $l0 (f32x4.add (local.get $l0) (f32x4.mul (local.get $x) (local.get $wl))))
          (local.set $h0 (f32x4.add (local.get $h0) (f32x4.mul (local.get $x) (local.get $wr))))
          (local.set $x (v128.load32_splat (local.get $r1)))
          (local.set $l1 (f32x4.add (local.get $l1) (f32x4.mul (local.get $x) (local.get $wl))))
          (local.set $h1 (f32x4.add (local.get $h1) (f32x4.mul (local.get $x) (local.get $wr))))
          (local.set $x (v128.load32_splat (local.get $r2)))
          (local.set $l2 (f32x4.add (local.get $l2) (f32x4.mul (local.get $x) (local.get $wl))))
          (local.set $h2 (f32x4.add (local.get $h2) (f32x4.mul (local.get $x) (local.get $wr))))
          (local.set $x (v128.load32_splat (local.get $r3)))
          (local.set $l3 (f32x4.add (local.get $l3) (f32x4.mul (local.get $x) (local.get $wl))))
          (local.set $h3 (f32x4.add (local.get $h3) (f32x4.mul (local.get $x) (local.get $wr))))
          (local.set $r0 (i32.add (local.get $r0) (i32.const 4)))
          (local.set $r1 (i32.add (local.get $r1) (i32.const 4)))
          (local.set $r2 (i32.add (local.get $r2) (i32.const 4)))
          (local.set $r3 (i32.add (local.get $r3) (i32.const 4)))
          (local.set $w (i32.add (local.get $w) (i32.const 32)))
          (br_if $along (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))

        (v128.store (local.get $to) (local.get $l0))
        (v128.store offset=16 (local.get $to) (local.get $h0))
        (local.set $to (i32.add (local.get $to) (local.get $out_bytes)))
        (v128.store (local.get $to) (local.get $l1))
        (v128.store offset=16 (local.get $to) (local.get $h1))
        (local.set $to (i32.add (local.get $to) (local.get $out_bytes)))
        (v128.store (local.get $to) (local.get $l2))
        (v128.store offset=16 (local.get $to) (local.get $h2))
        (local.set $to (i32.add (local.get $to) (local.get $out_bytes)))
        (v128.store (local.get $to) (local.get $l3))
        (v128.store offset=16 (local.get $to) (local.get $h3))
        (local.set $to (i32.add (local.get $to) (local.get $out_bytes)))
        (local.set $r0 (local.get $r3))
        (br_if $band (local.tee $left (i32.sub (local.get $left) (i32.const 4)))))

      (local.set $weights (local.get $w))
      (local.set $bias (i32.add (local.get $bias) (i32.const 32)))
      (local.set $out (i32.add (local.get $out) (i32.const 32)))
      (br_if $panel (local.tee $columns (i32.sub (local.get $columns) (i32.const 8)))))))
