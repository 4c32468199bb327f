include { options ; threads ; words } from '../shell'

// One set of peaks for all samples: fixed width, overlaps resolved by score
process MERGE_PEAKS {
    label 'process_low'
    label 'image_cpu'

    input:
    tuple val(union), path(peaks, stageAs: 'peaks?/*') // union: keep the extents of the samples' own peaks; in samplesheet order
    val settings                                       // [ genome, chrom_style, width? ]: a width resizes the samples' own peaks too
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'
    path blacklist, stageAs: 'genome/blacklist/*'

    output:
    path 'consensus.bed', emit: peaks
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-merge-peaks --resources merge_peaks.resources.json ${words(peaks)} \\
        ${options(chrom_sizes: chrom_sizes, blacklist: blacklist)} \\
        ${options(settings)} ${options(union: union && !settings.width)} --output=consensus.bed
    """

    stub:
    """
    touch consensus.bed
    echo '{}' > merge_peaks.resources.json
    """
}
