/*
 * MERGE_PEAKS alone, once with samples' own peaks and once with called ones.
 *   nextflow run tests/pipeline/merge_peaks.nf --beds 'a.bed,b.bed' --chrom_sizes X [--peak_width 301]
 */
include { chosen      } from '../../modules/shell'
include { MERGE_PEAKS } from '../../modules/merge_peaks/main'

workflow {
    beds     = params.beds.tokenize(',').collect { name -> file(name, glob: false) }
    settings = [chrom_style: 'auto'] + chosen([peak_width: params.peak_width], ['peak_width'], 'peak_')
    MERGE_PEAKS(channel.of([true, beds], [false, beds]), settings, file(params.chrom_sizes), [])
    MERGE_PEAKS.out.peaks.map { bed -> bed.text.readLines().collect { line -> line.tokenize('\t')[0..2].join(':') }.join(' ') }.view { line -> "PEAKS ${line}" }
}
